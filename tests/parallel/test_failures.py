"""Tests of the links between processes, at a port of this machine: who is let in, and what ends."""

import contextlib
import queue
import socket
import threading
import time

import pytest

from lift_jax.parallel import failures, meeting

TOKEN = "0123456789abcdef"


@pytest.fixture
def ended(monkeypatch):
    """Collects the exit statuses that would end this process, and what is printed before."""
    statuses: queue.Queue[int] = queue.Queue()
    lines: list[str] = []
    monkeypatch.setattr(failures.os, "_exit", statuses.put)
    monkeypatch.setattr(failures, "say_error", lines.append)
    monkeypatch.setattr(failures, "GRACE", 0.01)
    return statuses, lines


@pytest.fixture
def listening():
    """Yields the links of process 0, which accepts connections, and the port where."""
    links = failures._Links(["first", "second"])

    def accept():
        with contextlib.suppress(OSError):  # the port is closed at the end of the test
            failures._accept(server, TOKEN, links)

    with meeting.listen(0) as server:
        threading.Thread(target=accept, daemon=True).start()
        yield links, server.getsockname()[1]
        links._leaving.set()
    for thread, link in zip(links._threads, list(links._sockets.values()), strict=False):
        thread.join(10)
        link.close()


def connect(port, greeting):
    link = socket.create_connection(("127.0.0.1", port), timeout=10)
    link.sendall(greeting)
    return link


def test_strangers_do_not_keep_the_processes_out(listening, ended):
    statuses, lines = ended
    links, port = listening
    strangers = (b"\xc3\xa9 1\n", b"\xff\xff 1\n", b"GET / HTTP/1.1\n", b"wrong 1\n")
    for greeting in strangers:
        with connect(port, greeting) as stranger:
            assert stranger.recv(1) == b""  # closed by process 0
    assert not links._sockets
    with connect(port, f"{TOKEN} 1\n".encode()) as process:
        process.sendall(b'[1, "no data"]\n')
        assert statuses.get(timeout=10) == failures.ENDED_BY_ANOTHER
    assert "Process 1 (on second) failed: no data" in lines[0]


@pytest.mark.parametrize("last", [b"", b'[1, "half of a li'])
def test_a_process_that_is_killed_ends_the_others(listening, ended, last):
    statuses, lines = ended
    _, port = listening
    with connect(port, f"{TOKEN} 1\n".encode()) as process:
        process.sendall(last)
    assert statuses.get(timeout=10) == failures.ENDED_BY_ANOTHER
    assert "Process 1 (on second) died" in lines[0]


def test_a_process_that_finishes_ends_nobody(listening, ended):
    links, port = listening
    with connect(port, f"{TOKEN} 1\n".encode()) as process:
        process.sendall(b'[1, ""]\n')
        while not links._threads:
            time.sleep(0.01)
        links._threads[0].join(10)
        assert not links._threads[0].is_alive()
    assert ended[0].empty() and not ended[1]
