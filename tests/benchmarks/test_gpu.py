"""Tests of the checks for accelerators (tests/gpu.py), at small sizes on this machine."""

import pytest

from tests import gpu

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("part", ["steps", "lean", "prepared"])  # others are in the suite
def test_a_part_ends_well(part, capsys):
    assert gpu.main(["--small", "--only", part]) == 0
    out = capsys.readouterr().out
    assert out.startswith(part) and "FAILED" not in out
