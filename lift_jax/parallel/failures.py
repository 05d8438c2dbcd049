"""Failures of one process among several, which end all of them with an error that names it.

Otherwise the surviving processes would wait in a collective until JAX's heartbeat aborts them.
Process 0 leaves last, because JAX kills all others as soon as its coordinator is gone.
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

from lift_jax.errors import UserError
from lift_jax.output.lines import say_error
from lift_jax.parallel import exchange, meeting
from lift_jax.parallel.signals import STOPPED

ENDED_BY_ANOTHER = 1  # exit status of a process that ends because another one failed
GRACE = 5.0  # seconds in which a process may meet the same error itself, before it shows another's
CONNECT = 30.0  # seconds until a connection attempt or a silent stranger is given up
LEAVE = GRACE + 5  # seconds that process 0 waits for the others after a failure


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
    if exchange.count() == 1:
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
        links.leave(failure)


class _Links:
    """The connections of this process, each with a thread that hears how the other process ends."""

    def __init__(self, hosts: Sequence[str]):
        self._hosts = hosts
        self._sockets: dict[int, socket.socket] = {}
        self._threads: list[threading.Thread] = []
        self._leaving = threading.Event()

    def add(self, other: int, link: socket.socket) -> None:
        """Takes the connection to process `other`, and listens to it."""
        self._sockets[other] = link
        thread = threading.Thread(target=self._listen, args=(other, link), daemon=True)
        self._threads.append(thread)
        thread.start()

    def leave(self, failure: str) -> None:
        """Tells the connected processes how this one ends; "" means well.

        After a failure process 0 waits until the others have ended too.
        """
        self._leaving.set()
        self._report(failure, exchange.number())
        if failure and exchange.number() == 0:
            deadline = time.monotonic() + LEAVE
            for thread in self._threads:
                thread.join(max(0.0, deadline - time.monotonic()))

    def _report(self, failure: str, process: int) -> None:
        """Tells the connected processes how process `process` has ended."""
        line = json.dumps([process, failure]).encode() + b"\n"
        for link in list(self._sockets.values()):  # another thread may add one meanwhile
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
        except (OSError, ValueError):  # ValueError: a line that a kill has cut off
            pass
        self._end(other, None)

    def _end(self, process: int, failure: str | None) -> None:
        """Ends this process because of another one; None means that it gave no reason.

        Nothing happens if this process is ending by itself.
        """
        if self._leaving.wait(0 if failure is None else GRACE):
            return
        name = f"Process {process} (on {self._hosts[process]})"
        what = f"{name} died" if failure is None else f"{name} failed: {failure}\n{name} has ended"
        self._report(failure or "it died", process)
        sys.stdout.flush()
        say_error(
            f"error: {what}, and the others end with it. Fix the cause, and run the same command "
            "on all machines to continue from the last checkpoint."
        )
        os._exit(ENDED_BY_ANOTHER)  # the main thread may wait in a collective for ever


def _connect(hosts: Sequence[str], coordinator: str) -> _Links:
    """Returns the links of this process: process 0 accepts those of all others."""
    links = _Links(hosts)
    server = meeting.listen(0) if exchange.number() == 0 else None
    own = [server.getsockname()[1] if server else 0, secrets.token_hex(16)]
    port, token = json.loads(exchange.gather(json.dumps(own))[0])
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
        link.settimeout(None)
        link.sendall(f"{token} {exchange.number()}\n".encode())
    except OSError as e:
        say_error(f"Process 0 cannot be watched ({host}:{port}: {e}).")
        return
    _keep_alive(link)
    links.add(0, link)


def _accept(server: socket.socket, token: str, links: _Links) -> None:
    """Adds a link for every process that connects and knows the token; never returns."""
    while True:
        link, _ = server.accept()
        words = meeting.read_line(link, CONNECT).split()
        if len(words) == 2 and secrets.compare_digest(words[0].encode(), token.encode()):
            _keep_alive(link)
            links.add(int(words[1]), link)
        else:
            link.close()  # not one of our processes


def _keep_alive(link: socket.socket) -> None:
    """Ends a connection whose host has been cut off for a minute."""
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, option):  # Linux
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
