"""Tests of the page's server against clients that are hostile, broken, slow or many."""

import concurrent.futures
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.commands import run_command
from support.web import BOUNDARY, KIND, ask, form, part, raw, request, serving_run

from lift_jax.app.limits import Limits

HASTY = Limits(idle_seconds=0.4, upload_seconds=1.2, at_once=8)


class Counting:
    """An answerer that counts files and bytes; the limits need no classifier."""

    class predictor:  # noqa: N801
        class_names = ("a", "b")

    def about(self):
        return {"calibrated": False, "coverage": None, "notes": []}

    def answer(self, uploads):
        if any(upload.name == "fault" for upload in uploads):
            raise RuntimeError("its secret")
        if any(upload.name == "slow" for upload in uploads):
            time.sleep(0.6)
        return {"images": [[one.name, len(one.content), one.error] for one in uploads]}


@pytest.fixture(scope="module")
def port():
    with serving_run(Counting(), Limits()) as port:
        yield port


@pytest.fixture(scope="module")
def hasty():
    with serving_run(Counting(), HASTY) as port:
        yield port


def test_the_page_asks_nobody_else(port):
    status, headers, body = request(port, "GET", "/")
    page, policy = body.decode(), headers["content-security-policy"]
    assert status == 200 and not re.search(r"https?:|//[a-z]|@import|url\(", page)
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert "set-cookie" not in headers and headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff" and "server" not in headers


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:1234"}, 200),  # the end of a tunnel
        ({"Host": "[::1]:80"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "localhost.evil.example:80"}, 403),
        ({"Host": "192.168.0.7"}, 403),
        ({"Host": "user@127.0.0.1"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "localhost", "Origin": "http://localhost"}, 200),
        ({"Host": "localhost", "Origin": "http://localhost:81"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"Sec_Fetch_Site": "same-origin"}, 200),
    ],
)
def test_other_hosts_and_sites_are_refused(port, headers, status):
    assert ask(port, [("a.png", b"abc")], **headers)[0] == status
    hosts = {key: value for key, value in headers.items() if key == "Host"}
    found = request(port, "GET", "/", **hosts)[0]
    assert found == (status if hosts and "Origin" not in headers else 200)


def test_an_open_address_takes_numbers_alone(monkeypatch):
    from lift_jax.app.guard import Guard

    monkeypatch.setattr(socket, "gethostname", lambda: "Box")
    guard = Guard(None, "0.0.0.0")
    for host in ("192.168.0.7:8000", "box:8000", "box.local", "localhost", "[fe80::1]"):
        assert guard._is_here(host), host
    assert not guard._is_here("evil.example") and not guard._is_here("")


END = f"--{BOUNDARY}--\r\n".encode()
LONG = f"--{BOUNDARY}\r\nX: {'x' * 100_000}\r\n".encode()


@pytest.mark.parametrize(
    ("body", "kind", "status", "reason"),
    [
        (form([("a", b"x")] * 50), KIND, 200, ""),
        (form([("a", b"x")] * 51), KIND, 413, "50 images"),
        (form([("a", b"x")] * 10_000), KIND, 413, "50 images"),
        (form([]), KIND, 400, "no file"),
        (b"", KIND, 400, "cut off"),
        (form([("", b"")]), KIND, 400, "no file"),
        (part("a", b"abc"), KIND, 400, "cut off"),
        (part("a", b"abc")[:-20], KIND, 400, "cut off"),
        (b"nothing", KIND, 400, "no valid"),
        (LONG + END, KIND, 400, "no valid"),
        (b"{}", "application/json", 415, "multipart/form-data"),
        (form([("a", b"x")]), "multipart/form-data", 415, "multipart/form-data"),
        (b"x", "multipart/form-data; boundary=" + "b" * 1000, 400, ""),
        (b"x", "", 415, "multipart/form-data"),
    ],
)
def test_limits_and_broken_forms(port, body, kind, status, reason):
    found, _, answer = request(port, "POST", "/api/predict", body, Content_Type=kind)
    assert found == status and reason in json.loads(answer).get("error", "")


def test_a_large_file_has_its_own_line(port):
    sizes = (20_000_000, 20_000_001, 5)
    status, found = ask(port, [(str(size), bytes(size)) for size in sizes])
    assert status == 200
    told = "the file has more than 20.0 MB"
    assert found["images"] == [["20000000", 20_000_000, ""], ["20000001", 0, told], ["5", 5, ""]]


def head(length: str, more: str = "") -> bytes:
    return (
        f"POST /api/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {KIND}\r\n{length}\r\n"
        f"{more}\r\n"
    ).encode()


@pytest.mark.slow
def test_a_stated_size_is_refused_before_it_arrives(hasty):
    begun = time.monotonic()
    assert raw(hasty, head("Content-Length: 1000000000")).startswith(b"HTTP/1.1 413")
    huge = raw(hasty, head(f"Content-Length: {'9' * 19}"))
    assert huge.startswith(b"HTTP/1.1 413") and time.monotonic() - begun < 5
    expecting = raw(hasty, head("Content-Length: 1000000000", "Expect: 100-continue\r\n"))
    assert expecting.startswith(b"HTTP/1.1 413")  # and never "100 Continue"


def memory(key: str) -> int:
    """Returns a value of this process, in which the server runs, in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"{key}:\s+(\d+)", status)[1])


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_a_gigabyte_takes_no_memory(port):
    chunk = bytes(2**20)

    def gigabyte():
        yield part("a.png", b"")[:-2]
        for _ in range(1000):
            yield chunk

    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before = memory("VmRSS")
    try:
        status, _, _ = request(port, "POST", "/api/predict", gigabyte(), Content_Type=KIND)
        assert status == 413
    except (BrokenPipeError, ConnectionResetError):  # the server has hung up, which is as good
        pass
    assert memory("VmHWM") - before < 60_000_000
    assert ask(port, [("a", b"abc")])[0] == 200


SILENT = [  # what a client sends before it falls silent, and how the answer begins
    (b"", b""),
    (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX", b""),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"HTTP/1.1 400"),  # TLS
    (head("Content-Length: 500"), b"HTTP/1.1 408"),
    (head("Content-Length: 500") + part("a", b"abc"), b"HTTP/1.1 408"),
    (head("Transfer-Encoding: chunked") + b"5\r\n--", b"HTTP/1.1 408"),
]


@pytest.mark.slow
def test_silence_ends_a_connection(hasty):
    begun = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(len(SILENT)) as pool:
        for answer, (_, said) in zip(
            pool.map(lambda case: raw(hasty, case[0]), SILENT), SILENT, strict=True
        ):
            assert answer.startswith(said) and (said or not answer)
    assert time.monotonic() - begun < 8


@pytest.mark.slow
def test_a_trickle_ends(hasty):
    begun = time.monotonic()
    with socket.create_connection(("127.0.0.1", hasty), timeout=20) as sock:
        sock.sendall(head("Content-Length: 500") + part("a", b"abc")[:-2])
        sock.settimeout(0.1)
        found = b""
        while not found and time.monotonic() - begun < 10:
            sock.sendall(b"-")
            try:
                found = sock.recv(1000)
            except TimeoutError:
                continue
    assert found.startswith(b"HTTP/1.1 408") and time.monotonic() - begun < 5


@pytest.mark.slow
def test_a_client_waits_for_its_turn():
    one = Limits(idle_seconds=0.8, at_once=1)
    with (
        serving_run(Counting(), one) as port,
        socket.create_connection(("127.0.0.1", port)) as silent,
    ):
        silent.sendall(head("Content-Length: 500"))
        time.sleep(0.1)  # it has the only turn now
        assert ask(port, [("a", b"abc")])[0] == 200
        silent.settimeout(0.1)  # it has lost its turn before the other got one
        assert silent.recv(1000).startswith(b"HTTP/1.1 408")


def test_clients_that_leave_are_forgotten(port):
    for _ in range(20):  # more than there are turns
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.sendall(head("Content-Length: 500") + part("a", b"abc"))
    assert ask(port, [("a", b"abc")])[0] == 200


def test_too_many_connections_get_an_answer(port):
    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(70)]
    assert request(port, "GET", "/")[0] == 503
    for sock in idle:
        sock.close()
    until = time.monotonic() + 10
    while request(port, "GET", "/")[0] == 503 and time.monotonic() < until:
        time.sleep(0.05)
    assert request(port, "GET", "/")[0] == 200


def test_the_page_is_there_while_the_classifier_works(port):
    slow = threading.Thread(target=ask, args=(port, [("slow", b"x")]))
    slow.start()
    time.sleep(0.1)
    assert request(port, "GET", "/")[0] == 200 and slow.is_alive()
    slow.join()


def test_a_fault_ends_one_request(port, capsys):
    status, found = ask(port, [("fault", b"x")])
    assert status == 500 and "fault of lift_jax (RuntimeError)" in found["error"]
    assert "secret" not in found["error"] and "its secret" in capsys.readouterr().err
    assert ask(port, [("a", b"x")])[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/predict", 405), ("POST", "/", 405), ("GET", "/favicon.ico", 404),
        ("GET", "/../../etc/passwd", 404), ("GET", "/training/", 404), ("GET", "/%2e%2e/x", 404),
        ("DELETE", "/", 405), ("OPTIONS", "/api/predict", 405), ("HEAD", "/", 200),
    ],
)  # fmt: skip
def test_other_addresses(port, method, path, status):
    found, headers, _ = request(port, method, path)
    assert found == status and "access-control-allow-origin" not in headers


def test_a_taken_port_and_wrong_addresses_are_one_line(port, capsys):
    for options, said in [
        ([f"--port={port}"], f"Port {port} of 127.0.0.1 is taken"),
        (["--port=70000"], "--port is 70000"),
        (["--port=0", "--host=192.0.2.1"], "no address of this machine"),
        (["--port=0", "--host=a b"], "no address of this machine"),
    ]:
        with pytest.raises(SystemExit) as stopped:
            run_command("app", "--run=nowhere", *options)
        error = capsys.readouterr().err
        assert stopped.value.code == 2 and said in error and error.count("\n") == 1


SERVER = """
import time
from lift_jax.app import serving
from lift_jax.app.limits import Limits
from lift_jax.commands.line import ending

async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"here"})

ending.handle_interrupts()
sock = serving.listen("127.0.0.1", 0)
address = serving.url(sock, "127.0.0.1")
with ending.errors_as_lines():
    serving.serve(app, sock, Limits(), lambda: print(address, flush=True))
"""


@pytest.mark.slow
def test_ctrl_c_ends_it(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    address = process.stdout.readline()
    port = int(address.strip().strip("/").rpartition(":")[2])
    assert request(port, "GET", "/")[2] == b"here"
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=20)
    assert process.returncode == 130 and error.strip() == (
        "Stopped. Everything that was complete stays."
    )
