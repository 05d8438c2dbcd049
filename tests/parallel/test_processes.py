"""Tests of what process 0 sends to the others: in parts, and bit for bit."""

import jax
import numpy as np
import pytest

from lift_jax.errors import UserError
from lift_jax.parallel import processes


@pytest.fixture
def both(monkeypatch):
    """Returns a function that runs another as process 0 or 1 of two, and what process 0 has sent.

    Process 1 gets that, if it asks for the same shapes and types.
    """
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(processes, "PART", 10)
    sent = []

    def run(function, number):
        monkeypatch.setattr(jax, "process_index", lambda: number)
        waiting = iter(list(sent))

        def broadcast(array):
            if number == 0:
                sent.append(array.copy())
                return array
            told = next(waiting)
            assert (told.shape, told.dtype) == (array.shape, array.dtype)
            return told

        monkeypatch.setattr(processes.multihost_utils, "broadcast_one_to_all", broadcast)
        found = function()
        assert number == 0 or not list(waiting)
        return found

    return run, sent


@pytest.mark.parametrize("sizes", [(), (0,), (1, 2), (5,), (3, 0, 7, 5)])
def test_arrays_come_in_parts_bit_for_bit(both, sizes):
    run_as, sent = both
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=size).astype(np.float32) for size in sizes]
    arrays += [np.array([-0.0, np.nan, np.inf], np.float16)]
    for number in range(2):
        found = run_as(lambda: processes.arrays_from_first(lambda: arrays, arrays), number)
        for own, array in zip(found, arrays, strict=True):
            assert own.dtype == array.dtype and own.tobytes() == array.tobytes()
    assert max(part.nbytes for part in sent[1:]) <= processes.PART


def test_values_and_errors_of_process_0_reach_all(both):
    run_as, sent = both
    value = {"a": [1, "é" * 20]}
    for number in range(2):
        assert run_as(lambda: processes.from_first(lambda: value), number) == value
    sent.clear()

    def fail():
        raise UserError("no such file: größer")

    for number in range(2):
        with pytest.raises(UserError, match="no such file: größer"):
            run_as(lambda: processes.from_first(fail), number)


def test_a_size_beyond_32_bits_is_told(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(processes, "PART", 2**10)
    told = []

    def broadcast(array):
        told.append(array)
        raise InterruptedError

    class Large(bytes):
        def __len__(self):
            return 2**33 + 5

    monkeypatch.setattr(processes.multihost_utils, "broadcast_one_to_all", broadcast)
    with pytest.raises(InterruptedError):
        processes._bytes_from_first(Large)
    assert told[0].dtype == np.int32 and told[0].tolist() == [2**23, 5, 0]
