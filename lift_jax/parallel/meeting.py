"""The meeting of all processes at the coordinator's address, before JAX connects them.

JAX crashes, or waits for minutes, if the port is taken, nobody listens, or a process is missing.
Here each of these is an error of one line, in all processes and in a stated time.
"""

import errno
import os
import re
import selectors
import socket
import time
from collections.abc import Iterable
from typing import NoReturn

from lift_jax.errors import UserError

NUMBER = re.compile("[0-9]{1,9}")
GREETING, WELCOME, GO = "lift_jax-process", "lift_jax-welcome", "lift_jax-go"
SECONDS = 60.0  # that processes wait for each other by default
RETRY = 0.5  # seconds between two attempts to reach process 0
ANSWER = 10.0  # seconds in which process 0 answers a greeting
STRANGER = 2.0  # seconds in which a process sends its greeting


def meet(coordinator: str, number: int, count: int, seconds: float) -> None:
    """Returns when all processes have reached process 0, and its port is free for JAX again.

    Args:
        coordinator: HOST:PORT of process 0.
        number: number of this process.
        count: number of processes.
        seconds: time that the processes wait for each other.

    Raises UserError, in all processes that have come, if the port is taken, a process is missing or
    comes twice, or the processes were told different counts.
    """
    host, _, port = coordinator.rpartition(":")
    if number == 0:
        _receive(coordinator, int(port), count, seconds)
    else:
        _visit(coordinator, (host.strip("[]"), int(port)), f"{number} {count}", seconds)


def listen(port: int) -> socket.socket:
    """Returns a socket that listens on all addresses of this machine, IPv6 too if that works."""
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise
    return socket.create_server(("", port))


def read_line(link: socket.socket, seconds: float) -> str:
    """Returns the line that comes over a connection, "" if none comes in time."""
    link.settimeout(seconds)
    line = b""
    try:
        while not line.endswith(b"\n") and len(line) < 9999:
            line += link.recv(1) or b"\n"
    except OSError:
        return ""
    link.settimeout(None)
    return line.decode(errors="replace").strip()


def _receive(coordinator: str, port: int, count: int, seconds: float) -> None:
    """Waits, as process 0, for all others; tells them to go on, or why the run cannot start."""
    try:
        server = listen(port)
    except OSError as error:
        raise UserError(
            f"Process 0 cannot listen at port {port} (--coordinator={coordinator}): "
            f"{os.strerror(error.errno or 0)}. Give all processes a port that no other program "
            "uses."
        ) from error
    came: dict[int, socket.socket] = {}
    deadline = time.monotonic() + seconds
    with server, selectors.DefaultSelector() as selector:
        selector.register(server, selectors.EVENT_READ)
        while len(came) < count - 1:
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready and time.monotonic() >= deadline:
                missing = ", ".join(str(i) for i in range(1, count) if i not in came)
                _refuse(
                    came.values(),
                    f"{count} processes (--process_count) were expected at {coordinator} "
                    f"(--coordinator); missing after {seconds:g} s (--connect_seconds): {missing}. "
                    "Start all "
                    "at the same time, or give --connect_seconds a larger number, and see that "
                    "the port can be reached from their machines.",
                )
            # a process that has ended leaves before another takes its number
            for key, _ in sorted(ready, key=lambda one: one[0].fileobj is server):
                if key.fileobj is server:
                    _admit(server.accept()[0], came, count, selector)
                else:
                    selector.unregister(key.fileobj)
                    came.pop(key.data).close()
    for link in came.values():
        _send(link, GO)
        link.close()


def _admit(
    link: socket.socket,
    came: dict[int, socket.socket],
    count: int,
    selector: selectors.BaseSelector,
) -> None:
    """Adds the process that has connected to `came`; closes the connection of anybody else.

    Raises UserError, in all processes that have come, if this one does not belong to them.
    """
    words = read_line(link, STRANGER).split()
    if len(words) != 3 or words[0] != GREETING or not all(map(NUMBER.fullmatch, words[1:])):
        link.close()
        return
    number, told = int(words[1]), int(words[2])
    _send(link, WELCOME)
    if told != count:
        _refuse(
            [*came.values(), link],
            f"--process_count is {count} on process 0 and {told} on process {number}. Give all "
            "processes of a run the same number, and each run a --coordinator of its own.",
        )
    if number in came:
        _refuse(
            [*came.values(), link],
            f"Two processes have --process_id={number}. Give each its own, from 0 to {count - 1}, "
            "and each run a --coordinator of its own.",
        )
    came[number] = link
    selector.register(link, selectors.EVENT_READ, number)


def _refuse(links: Iterable[socket.socket], why: str) -> NoReturn:
    """Sends an error to other processes, and raises it here."""
    for link in links:
        _send(link, why)
        link.close()
    raise UserError(why)


def _visit(coordinator: str, address: tuple[str, int], greeting: str, seconds: float) -> None:
    """Waits, as another process, until process 0 is there and says that all have come."""
    with _reach(coordinator, address, seconds) as link:
        _send(link, f"{GREETING} {greeting}")
        if read_line(link, ANSWER) != WELCOME:
            raise UserError(
                f"Another program, or a run that goes on already, uses {coordinator} "
                "(--coordinator), not a process 0 that waits for others. Give all processes of "
                "this run a port that no other program uses."
            )
        verdict = read_line(link, seconds + ANSWER)
    if not verdict:
        raise UserError(
            f"Process 0 (--coordinator={coordinator}) ended before all processes had connected. "
            "See its output for the cause, and run the same command on all machines again."
        )
    if verdict != GO:
        raise UserError(verdict)


def _reach(coordinator: str, address: tuple[str, int], seconds: float) -> socket.socket:
    """Returns a connection to process 0. Raises UserError if there is none in time."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return socket.create_connection(address, max(RETRY, deadline - time.monotonic()))
        except OSError as error:
            if time.monotonic() + RETRY > deadline:
                raise UserError(
                    f"Process 0 was not at {coordinator} (--coordinator) within {seconds:g} s "
                    f"(--connect_seconds): {error.strerror or error}. Start all processes at the "
                    "same time, or set a larger --connect_seconds. Check that host and port are "
                    "those of process 0, and that this machine can reach them."
                ) from error
            time.sleep(RETRY)


def _send(link: socket.socket, line: str) -> None:
    """Sends a line; nothing happens if the other process is gone."""
    try:
        link.sendall(f"{line}\n".encode())
    except OSError:
        pass
