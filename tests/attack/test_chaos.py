"""Tests of each fault of chaos.py, once; `python -m tests.attack --only chaos` repeats them."""

import random

import pytest

from tests.attack.chaos import FAULTS, begins_on, compare, one_run, straight

pytestmark = pytest.mark.slow  # whole runs, or many compilations


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return straight(tmp_path_factory.mktemp("chaos") / "straight")


@pytest.mark.parametrize("fault", FAULTS)
def test_it_ends_as_if_nothing_had_been(fault, expected, tmp_path):
    what, last = one_run(fault, tmp_path / "W", random.Random(f"3 {fault}"))
    compare(tmp_path / "W", expected[begins_on(fault)], exact=last == begins_on(fault))
