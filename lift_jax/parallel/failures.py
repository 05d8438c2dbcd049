"""Failures of one process among several, which end all of them with an error that names it.

Otherwise the surviving processes would wait in a collective until JAX's heartbeat aborts them.
"""

import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import jax

from lift_jax.errors import UserError
from lift_jax.parallel import processes
from lift_jax.parallel.signals import STOPPED

ENDED_BY_ANOTHER = 1  # exit status of a process that ends because another one failed
GRACE = 5.0  # seconds in which a process may meet the same error itself, before it shows another's
CONNECT = 30.0  # seconds until a connection attempt or a silent stranger is given up


@contextmanager
def end_together(hosts: Sequence[str], coordinator: str = "") -> Iterator[None]:
    """Ends all processes when one of them fails in the block, and names the one that failed.

    Process 0 listens. Each other process keeps a connection to it, over which it reports how it
    ends. If a connection fails, a line on standard error says so, and JAX's heartbeat remains. With
    a single process nothing happens.

    Args:
        hosts: host name of each process, from `processes.all_hosts`.
        coordinator: HOST:PORT of process 0; "" uses the host name of process 0.
    """
    if jax.process_count() == 1:
        yield
        return
    links = _connect(hosts, coordinator)
    failure = "the program was left"
    try:
        yield
        failure = ""
    except SystemExit as e:
        failure = "" if e.code in (0, STOPPED) else f"exit status {e.code}"
        raise
    except UserError as e:
        failure = str(e)
        raise
    except BaseException as e:
        failure = repr(e)
        raise
    finally:
        links.report(failure)


class _Links:
    """The connections of this process, each with a thread that hears how the other process ends."""

    def __init__(self, hosts: Sequence[str]):
        self._hosts = hosts
        self._sockets: dict[int, socket.socket] = {}

    def add(self, other: int, link: socket.socket) -> None:
        """Takes the connection to process `other`, and listens to it."""
        self._sockets[other] = link
        threading.Thread(target=self._listen, args=(other, link), daemon=True).start()

    def report(self, failure: str, process: int | None = None) -> None:
        """Tells the connected processes how one has ended (this one by default); "" means well."""
        ended = jax.process_index() if process is None else process
        line = json.dumps([ended, failure]).encode() + b"\n"
        for link in self._sockets.values():
            try:
                link.sendall(line)
            except OSError:
                pass  # the other process is gone, which the thread of its link notices

    def _listen(self, other: int, link: socket.socket) -> None:
        try:
            with link.makefile("rb") as lines:
                for line in lines:
                    process, failure = json.loads(line)
                    if process == other and not failure:
                        return  # it has finished
                    self._end(process, failure)
        except OSError:
            pass
        self._end(other, None)

    def _end(self, process: int, failure: str | None) -> None:
        """Ends this process because of another one; None means that it gave no reason."""
        name = f"Process {process} (on {self._hosts[process]})"
        if failure is None:
            what = f"{name} died"
        else:
            time.sleep(GRACE)
            what = f"{name} failed: {failure}\n{name} has ended"
        self.report(failure or "it died", process)
        sys.stdout.flush()
        print(
            f"error: {what}, and the others end with it. Fix the cause, and run the same command "
            "on all machines to continue from the last checkpoint.",
            file=sys.stderr,
            flush=True,
        )
        os._exit(ENDED_BY_ANOTHER)  # the main thread may wait in a collective for ever


def _connect(hosts: Sequence[str], coordinator: str) -> _Links:
    """Returns the links of this process: process 0 accepts those of all others."""
    links, first = _Links(hosts), jax.process_index() == 0
    server = socket.create_server(("", 0), backlog=jax.process_count()) if first else None
    port, token = processes.from_first(
        lambda: (server.getsockname()[1] if server else 0, secrets.token_hex(16))
    )
    if server is None:
        host = coordinator.rpartition(":")[0].strip("[]") or hosts[0]
        _connect_to_first(host, port, token, links)
    else:
        accepting = threading.Thread(target=_accept, args=(server, token, links), daemon=True)
        accepting.start()
    return links


def _connect_to_first(host: str, port: int, token: str, links: _Links) -> None:
    """Adds the link to process 0, or prints that there is none."""
    try:
        link = socket.create_connection((host, port), CONNECT)
    except OSError as e:
        print(f"Process 0 cannot be watched ({host}:{port}: {e}).", file=sys.stderr)
        return
    link.settimeout(None)
    link.sendall(f"{token} {jax.process_index()}\n".encode())
    _keep_alive(link)
    links.add(0, link)


def _accept(server: socket.socket, token: str, links: _Links) -> None:
    """Adds a link for every process that connects and knows the token; never returns."""
    while True:
        link, _ = server.accept()
        words = _first_line(link).split()
        if len(words) == 2 and secrets.compare_digest(words[0], token):
            _keep_alive(link)
            links.add(int(words[1]), link)
        else:
            link.close()  # not one of our processes


def _first_line(link: socket.socket) -> str:
    """Returns the first line that comes over a connection, "" if none comes in time."""
    link.settimeout(CONNECT)
    line = b""
    try:
        while not line.endswith(b"\n") and len(line) < 99:
            line += link.recv(1) or b"\n"
    except OSError:
        return ""
    link.settimeout(None)
    return line.decode(errors="replace")


def _keep_alive(link: socket.socket) -> None:
    """Lets a host that is cut off count as dead after a minute."""
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, option):  # Linux
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
