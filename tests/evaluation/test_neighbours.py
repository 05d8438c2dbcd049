"""Tests of the nearest neighbours of features."""

import numpy as np
import pytest

from lift_jax.evaluation.insight import neighbours
from lift_jax.evaluation.insight.neighbours import nearest

EAST, NORTH, NORTH_EAST, WEST = [1.0, 0.0], [0.0, 2.0], [3.0, 3.0], [-1.0, 0.0]


def test_the_most_alike_come_first():
    known = np.array([NORTH, EAST, WEST, NORTH_EAST], np.float32)
    indices, cosines = nearest(np.array([[2.0, 0.0], [0.0, 1.0]], np.float32), known, 3)
    assert indices.tolist() == [[1, 3, 0], [0, 3, 1]]
    assert cosines == pytest.approx(np.array([[1, 0.5**0.5, 0], [1, 0.5**0.5, 0]]), abs=1e-6)
    assert indices.dtype == np.int32 and cosines.dtype == np.float32


def test_of_equal_ones_the_first_comes_first():
    known = np.array([WEST, EAST, EAST, EAST], np.float16)
    assert nearest(np.array([EAST], np.float16), known, 2)[0].tolist() == [[1, 2]]


def test_few_and_empty():
    known = np.array([EAST, [0.0, 0.0]], np.float32)
    indices, cosines = nearest(np.array([WEST], np.float32), known, 5)
    assert indices.tolist() == [[1, 0]] and cosines.tolist() == [[0, -1]]
    assert nearest(known, known[:0], 3)[0].shape == (2, 0)
    assert nearest(known[:0], known, 1)[1].shape == (0, 1)


def test_blocks_give_what_all_at_once_give(monkeypatch):
    rng = np.random.default_rng(0)
    queries, known = rng.normal(size=(50, 8)), rng.normal(size=(30, 8))
    whole = nearest(queries, known, 4)
    monkeypatch.setattr(neighbours, "BLOCK", 70)
    for found, expected in zip(nearest(queries, known, 4), whole, strict=True):
        assert found == pytest.approx(expected, abs=1e-6)
