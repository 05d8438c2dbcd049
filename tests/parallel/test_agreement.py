"""Tests of the agreement of processes, which are threads here."""

import threading

import jax
import pytest

from lift_jax.errors import UserError
from lift_jax.parallel import agreement, exchange, software

HOSTS = ["a", "b", "c"]


@pytest.fixture
def run_all(monkeypatch):
    """Returns a function that calls `agree` with values of each process and returns the errors."""
    local = threading.local()

    def run(*everyones):
        barrier, texts = threading.Barrier(len(everyones)), [""] * len(everyones)
        errors: list[str | None] = [None] * len(everyones)

        def gather(text):
            texts[local.number] = text
            barrier.wait(timeout=10)
            found = list(texts)
            barrier.wait(timeout=10)
            return found

        def process(number, values):
            local.number = number
            try:
                agreement.agree(values)
            except UserError as error:
                errors[number] = str(error)

        monkeypatch.setattr(exchange, "count", lambda: len(everyones))
        monkeypatch.setattr(exchange, "number", lambda: local.number)
        monkeypatch.setattr(exchange, "gather", gather)
        monkeypatch.setattr("socket.gethostname", lambda: HOSTS[local.number])
        threads = [
            threading.Thread(target=process, args=(number, values))
            for number, values in enumerate(everyones)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return errors

    return run


def test_processes_that_agree_go_on(run_all):
    values = {"seed": "0", "train.lr": "0.02"}
    assert run_all(values, dict(values), dict(values)) == [None] * 3
    assert run_all(values) == [None]


def test_all_processes_name_the_first_key_that_differs(run_all):
    first = {"seed": "0", "train.lr": "0.02", "label": "x"}
    errors = run_all(first, first | {"label": "y"}, first | {"train.lr": "0.5", "label": "z"})
    assert len(set(errors)) == 1
    assert errors[0].startswith(
        "The processes differ in train.lr: 0.02 on process 0 (on a), 1 (on b); 0.5 on process 2 "
        "(on c). Nothing was trained."
    )


@pytest.mark.parametrize("changed", [{"a": "1"}, {"a": "1", "b": "2", "c": "3"}])
def test_a_key_that_one_process_lacks_is_a_difference(run_all, changed):
    errors = run_all({"a": "1", "b": "2"}, changed)
    assert errors[0] == errors[1] is not None
    assert "nothing on process" in errors[0]


def test_a_long_value_is_shown_where_it_differs(run_all):
    names = [f"species {i}" for i in range(9000)]
    other = [*names[:7000], "an intruder", *names[7000:]]
    error = run_all({"names": ", ".join(names)}, {"names": ", ".join(other)})[0]
    assert "species 6999, species 7000" in error and "species 6999, an intruder" in error
    assert len(error) < 400


def test_many_processes_are_not_all_listed():
    firsts = [None] * 9 + [("seed", 0, "1")]
    message = agreement.difference({"seed": "0"}, firsts, ["h"] * 10)
    assert "3 (on h) and 5 more; 1 on process 9 (on h)" in message


def test_versions_and_devices_have_values():
    values = software.versions() | software.devices()
    assert all(values.values())
    assert values["the platform of the devices"] == "cpu"
    assert values["the number of devices of a process"] == "8"
    assert {"the version of jax", "the version of Python"} <= values.keys()


def test_an_optional_library_that_one_process_lacks_is_a_difference(monkeypatch):
    monkeypatch.setattr(software, "OPTIONAL", ("no-such-library",))
    assert software.versions()["the version of no-such-library"] == "not installed"
    assert software.version_of("jax") == jax.__version__
