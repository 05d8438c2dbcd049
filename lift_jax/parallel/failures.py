"""Several processes end together: one that dies or fails ends the others at once, by its name.

Left to themselves the others would wait for it in a collective, until JAX's heartbeat aborts them.
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

LOST = 1  # exit status of those that another one ended
GRACE = 5.0  # seconds to find the same error by oneself, before that of another is shown
CONNECT = 30.0  # seconds


@contextmanager
def end_together(hosts: Sequence[str], coordinator: str = "") -> Iterator[None]:
    """Around all that several processes do; nothing for one.

    Process 0 listens, and every other one keeps a connection to it, over which it says how it ends.
    Where no connection can be made (which is told), JAX's heartbeat is what remains.

    Args:
        hosts: of each process, as `distributed.hosts` gives them.
        coordinator: HOST:PORT of process 0, where it is known; else its host's name is used.
    """
    if jax.process_count() == 1:
        yield
        return
    links = _connect(hosts, coordinator)
    end = "the program was left"
    try:
        yield
        end = ""
    except SystemExit as e:
        end = "" if e.code in (0, STOPPED) else f"exit status {e.code}"
        raise
    except UserError as e:
        end = str(e)
        raise
    except BaseException as e:
        end = repr(e)
        raise
    finally:
        links.say(end)


class _Links:
    """The connections of this process, each with a thread that hears how the other end goes."""

    def __init__(self, hosts: Sequence[str]):
        self._hosts = hosts
        self._sockets: dict[int, socket.socket] = {}

    def add(self, other: int, link: socket.socket) -> None:
        self._sockets[other] = link
        threading.Thread(target=self._hear, args=(other, link), daemon=True).start()

    def say(self, end: str, of: int | None = None) -> None:
        """Tells the others how this process, or another one, has ended; "" for well."""
        line = json.dumps([jax.process_index() if of is None else of, end]).encode() + b"\n"
        for link in self._sockets.values():
            try:
                link.sendall(line)
            except OSError:
                pass  # it is gone, which its own thread has seen

    def _hear(self, other: int, link: socket.socket) -> None:
        try:
            with link.makefile("rb") as lines:
                for line in lines:
                    which, end = json.loads(line)
                    if which == other and not end:
                        return  # it has finished
                    self._leave(which, end)
        except OSError:
            pass
        self._leave(other, None)

    def _leave(self, which: int, end: str | None) -> None:
        """Ends this process because of another; `end` None is without a word."""
        name = f"Process {which} (on {self._hosts[which]})"
        if end is None:
            what = f"{name} died"
        else:
            time.sleep(GRACE)
            what = f"{name} failed: {end}\n{name} has ended"
        self.say(end or "it died", of=which)
        sys.stdout.flush()
        print(
            f"error: {what}, and the others end with it. Mend it, and run the same command on all "
            "to continue from the last checkpoint.", file=sys.stderr, flush=True,
        )  # fmt: skip
        os._exit(LOST)  # the main thread may wait in a collective for ever


def _connect(hosts: Sequence[str], coordinator: str) -> _Links:
    links, first = _Links(hosts), jax.process_index() == 0
    server = socket.create_server(("", 0), backlog=jax.process_count()) if first else None
    port, token = processes.from_first(
        lambda: (server.getsockname()[1] if server else 0, secrets.token_hex(16))
    )
    if server is None:
        host = coordinator.rpartition(":")[0].strip("[]") or hosts[0]
        try:
            link = socket.create_connection((host, port), CONNECT)
        except OSError as e:
            print(f"Process 0 cannot be watched ({host}:{port}: {e}).", file=sys.stderr)
            return links
        link.settimeout(None)
        link.sendall(f"{token} {jax.process_index()}\n".encode())
        _keep_alive(link)
        links.add(0, link)
        return links

    def accept() -> None:
        while True:
            link, _ = server.accept()
            said = _first_line(link).split()
            if len(said) == 2 and secrets.compare_digest(said[0], token):
                _keep_alive(link)
                links.add(int(said[1]), link)
            else:
                link.close()  # a stranger

    threading.Thread(target=accept, daemon=True).start()
    return links


def _first_line(link: socket.socket) -> str:
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
    """A host that is cut off counts as dead after a minute."""
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, option):  # Linux
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
