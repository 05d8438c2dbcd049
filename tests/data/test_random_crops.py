"""Tests of test-time ensembling of random resized crops: the boxes, and that they repeat."""

import numpy as np
import pytest

from lift_jax.data import loader
from lift_jax.data.images.crops import rrc_box
from lift_jax.data.images.decode import Picture
from lift_jax.data.images.views import ensemble
from lift_jax.data.types import ArrayImages, Split

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (7, 20, 26, 3), np.uint8)
SPLIT = Split(ArrayImages(PIXELS, "made up", np.arange(7)), np.arange(7) % 3)
VIEWS = ensemble("random", 8, "bilinear", expand=0, views=3, min_area=0.2)


def rows(seed=0, batch=4, processes=1) -> np.ndarray:
    """Returns the views of all images, in order, as the processes together read them."""
    shares = [
        list(loader.eval_batches(
            SPLIT, VIEWS, seed=seed, batch=batch, process=p, processes=processes
        ))
        for p in range(processes)
    ]  # fmt: skip
    steps = [np.stack([s["image"] for s in step], 1).reshape(-1, 3, 8, 8, 3)
             for step in zip(*shares, strict=True)]  # fmt: skip
    return np.concatenate(steps)[:7]


def test_views_are_a_pure_function_of_seed_and_image():
    found = rows()
    assert found.shape == (7, *VIEWS.shape) and found.dtype == np.uint8
    assert len({view.tobytes() for image in found for view in image}) == 21
    for other in (rows(batch=2), rows(processes=2), rows(processes=4)):
        assert np.array_equal(other, found)
    assert not np.array_equal(rows(seed=1), found)


def test_a_view_is_a_random_resized_crop_and_half_are_mirrored():
    rng, again = np.random.default_rng(5), np.random.default_rng(5)
    image = Picture.of(PIXELS[0])
    mirrored = 0
    for views in (VIEWS(PIXELS[0], rng) for _ in range(40)):
        for view in views:
            box = rrc_box(20, 26, 0.2, again)
            expected = image.resized(box, (8, 8), "bilinear")
            flip = again.random() < 0.5
            mirrored += flip
            assert np.array_equal(view, expected[:, ::-1] if flip else expected)
    assert 40 < mirrored < 80


@pytest.mark.parametrize(("crops", "shape"), [("five", (5, 8, 8, 3)), ("ten", (10, 8, 8, 3))])
def test_the_other_ensembles_have_their_margin(crops, shape):
    views = ensemble(crops, 8, "bicubic", expand=4, views=3, min_area=0.2)
    assert views.shape == shape == views(PIXELS[0]).shape
    assert views.expand == 4
