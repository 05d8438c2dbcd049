"""Tests of the margin of test-time ensembling, and of the sums over batches."""

import jax
import numpy as np
import pytest

from lift_jax.evaluation.evaluator import ensemble_view, margin
from lift_jax.evaluation.stream import evaluate
from lift_jax.parallel import mesh
from lift_jax.settings.groups.test import TestSettings


@pytest.mark.parametrize(("expand", "resolution", "pixels"), [
    (24, 224, 24), (24, 336, 24), (24, 1024, 24),  # the default from 224 pixels on
    (24, 32, 3), (24, 112, 12), (24, 223, 24), (24, 8, 1), (24, 1, 1),  # 24 * resolution / 224
    (4, 32, 4), (25, 32, 25), (0, 32, 0), (23, 448, 23),  # values other than the default
])  # fmt: skip
def test_the_margin_of_the_crops(expand, resolution, pixels):
    assert margin(expand, resolution) == pixels


@pytest.mark.parametrize("crops", ["five", "ten"])
def test_an_ensemble_view_has_the_scaled_margin(crops):
    """Expects 3 pixels at a resolution of 32, and so crops of an image of 35 pixels."""
    image = np.random.default_rng(0).integers(0, 256, (35, 35, 3), np.uint8)
    view = ensemble_view(TestSettings(crops=crops), 32, 0.08)
    found = view(image)
    assert found.shape == ({"five": 5, "ten": 10}[crops], 32, 32, 3)
    corners = [image[:32, :32], image[:32, 3:], image[3:, :32], image[3:, 3:]]
    for corner in corners:
        assert any(np.array_equal(corner, crop) for crop in found)


def test_every_counter_gets_every_batch():
    """Expects the sums over three batches for two counters that differ."""
    devices = mesh.make_mesh()
    batches = [{"label": np.full(8, i, np.int32)} for i in (1, 2, 3)]
    counters = {
        "sum": jax.jit(lambda batch: {"n": batch["label"].sum()}),
        "rows": jax.jit(lambda batch: {"n": (batch["label"] >= 0).sum()}),
    }
    found = evaluate(batches, counters, devices)
    assert found["sum"]["n"] == 48 and found["rows"]["n"] == 24
    assert evaluate([], counters, devices) == {}
