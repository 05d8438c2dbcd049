"""Tests of the attack tool: it sees faults of every kind, and a short attack finds none."""

import pickle
import time

import pytest

from lift_jax.errors import UserError
from tests.attack import engine, functions, kills, processes
from tests.attack.engine import FAULT, LINE, RIGHT, Fault, Kind, judge


def kind(attempt, **options):
    return Kind(lambda rng: rng.randrange(100), attempt, **options)


def test_outcomes_are_told_apart():
    def refuse(case, folder):
        raise UserError("x is 3.")

    def trace(case, folder):
        raise KeyError(case)

    def wrong(case, folder):
        raise Fault("another result")

    def silent(case, folder):
        raise UserError(" ")

    def leave(case, folder):
        raise SystemExit(0)

    def execute(case, folder):
        canary = folder.parent / "canary"
        pickle.loads(b"cos\nsystem\n(S'touch %s'\ntR." % str(canary).encode())

    assert judge(kind(lambda case, folder: None), 1) == (RIGHT, "")
    assert judge(kind(refuse), 1) == (LINE, "")
    for attempt in (trace, wrong, silent, leave, execute):
        assert judge(kind(attempt), 1)[0] == FAULT, attempt
    assert "executed" in judge(kind(execute), 1)[1]


def test_a_hang_is_a_fault():
    outcome, message = judge(kind(lambda case, folder: time.sleep(5), limit=1), 1)
    assert (outcome, message) == (FAULT, "still running after 1 s")


def test_a_machine_that_stalls_once_is_no_fault():
    tries = iter((5, 0))
    assert judge(kind(lambda case, folder: time.sleep(next(tries)), limit=1), 1) == (RIGHT, "")


def test_a_fault_is_shrunk_and_shown():
    def attempt(case, folder):
        if "x" in case[1]:
            raise ValueError("there is an x")

    made = Kind(lambda rng: (None, list("abxcd")), attempt, functions.fewer)
    shown: list[str] = []
    assert not engine.run({"letters": made}, 0.2, 0, shown.append)
    assert "ValueError: there is an x" in shown[0] and "(None, ['x'])" in shown[-1]
    assert engine.run({"none": kind(lambda case, folder: None)}, 0.1, 0, shown.append)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python's, of escapes in a pickle
@pytest.mark.parametrize("name", [name for name in functions.KINDS if name != "builds"])
def test_a_short_attack_on_functions(name):
    shown: list[str] = []
    assert engine.run({name: functions.KINDS[name]}, 0.3, 5, shown.append), "\n".join(shown)
    assert int(shown[-1].splitlines()[-1].split()[1]) > 3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["builds", "kills", "writers", "processes"])
def test_a_short_attack_on_runs(name):  # other tests are like the kinds that are not here
    shown: list[str] = []
    kinds = functions.KINDS | kills.KINDS | processes.KINDS
    assert engine.run({name: kinds[name]}, 3, 5, shown.append), "\n".join(shown)
