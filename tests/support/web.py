"""A real server of the page in a thread, and requests to it as clients of all kinds send them."""

import http.client
import json
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lift_jax.app import serving
from lift_jax.app.limits import Limits
from lift_jax.app.web import application

BOUNDARY = "----the-boundary"
KIND = f"multipart/form-data; boundary={BOUNDARY}"


@contextmanager
def serving_run(answerer: Any, limits: Limits, title: str = "a run") -> Iterator[int]:
    """Yields the port of a server on 127.0.0.1 that answers by `answerer`."""
    sock, started = serving.listen("127.0.0.1", 0), threading.Event()
    app = application(answerer, title, "127.0.0.1", limits)
    server = serving.server(app, limits, started.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    port = sock.getsockname()[1]
    thread.start()
    assert started.wait(20)
    try:
        yield port
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def part(name: str, content: bytes) -> bytes:
    """Returns a file as browsers write it into a form."""
    escaped = name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="{escaped}"\r\n'
    return head.encode() + b"Content-Type: image/png\r\n\r\n" + content + b"\r\n"


def form(files: Sequence[tuple[str, bytes]]) -> bytes:
    """Returns the body of a form with files."""
    return b"".join(part(*file) for file in files) + f"--{BOUNDARY}--\r\n".encode()


def request(
    port: int, method: str, path: str, body: Any = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Returns the status, headers and body of an answer. A body in pieces is sent in chunks."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    try:
        connection.request(method, path, body, named)
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def ask(port: int, files: Sequence[tuple[str, bytes]], **headers: str) -> tuple[int, dict]:
    """Returns the status and the JSON for a form with files."""
    headers = {"Content_Type": KIND} | headers
    status, _, body = request(port, "POST", "/api/predict", form(files), **headers)
    return status, json.loads(body)


def raw(port: int, sent: bytes, seconds: float = 20, shut: bool = False) -> bytes:
    """Returns all that a server says to bytes on a connection, until it closes it."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as sock:
        sock.sendall(sent)
        if shut:
            sock.shutdown(socket.SHUT_WR)
        found = b""
        while data := sock.recv(65536):
            found += data
        return found
