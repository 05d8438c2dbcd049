"""Tests of the meeting of processes, which are threads here, at a port of this machine."""

import socket
import threading

import pytest

from lift_jax.errors import UserError
from lift_jax.parallel import meeting


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for name, seconds in (("RETRY", 0.05), ("ANSWER", 0.3), ("STRANGER", 0.1)):
        monkeypatch.setattr(meeting, name, seconds)


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def meet(port, processes, seconds=5.0):
    """Lets (number, count) of each process meet; returns their errors, "" for none."""
    errors = [""] * len(processes)

    def process(place, number, count):
        try:
            meeting.meet(f"127.0.0.1:{port}", number, count, seconds)
        except UserError as error:
            errors[place] = str(error)

    threads = [
        threading.Thread(target=process, args=(place, *one)) for place, one in enumerate(processes)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def test_all_meet_and_the_port_is_free_again(port):
    for _ in range(2):
        assert meet(port, [(1, 3), (2, 3), (0, 3)]) == [""] * 3


def test_a_port_that_is_taken_ends_all(port):
    with socket.create_server(("", port)):  # a program that says nothing
        errors = meet(port, [(0, 2), (1, 2)])
    assert f"cannot listen at port {port}" in errors[0] and "already in use" in errors[0]
    assert "Another program, or a run that goes on already" in errors[1]


def test_nobody_at_the_address_is_an_error(port):
    (error,) = meet(port, [(1, 2)], seconds=0.3)
    assert "was not at 127.0.0.1" in error and "within 0.3 s (--connect_seconds)" in error


def test_a_missing_process_is_named_to_all_that_came(port):
    errors = meet(port, [(0, 4), (2, 4)], seconds=0.5)
    assert errors[0] == errors[1] and "missing after 0.5 s (--connect_seconds): 1, 3." in errors[0]


@pytest.mark.parametrize(("processes", "words"), [
    ([(0, 3), (1, 3), (1, 3)], "Two processes have --process_id=1"),
    ([(0, 3), (1, 2), (2, 3)], "--process_count is 3 on process 0 and 2 on process 1"),
])  # fmt: skip
def test_contradicting_flags_end_all(port, processes, words):
    errors = meet(port, processes, seconds=1.0)
    assert words in errors[0] and words in errors[1]
    assert all(errors)


def test_strangers_and_processes_that_died_do_not_count(port):
    errors = []
    thread = threading.Thread(target=lambda: errors.extend(meet(port, [(0, 3)])))
    thread.start()
    strangers = ("GET / HTTP/1.1", f"{meeting.GREETING} ² 3")
    greetings = dict.fromkeys(strangers, "") | {f"{meeting.GREETING} 1 3": meeting.WELCOME}
    for greeting, answer in greetings.items():
        with meeting._reach("here", ("127.0.0.1", port), 5.0) as link:
            meeting._send(link, greeting)
            assert meeting.read_line(link, 2.0) == answer
    assert meet(port, [(1, 3), (2, 3)]) == ["", ""]
    thread.join()
    assert errors == [""]
