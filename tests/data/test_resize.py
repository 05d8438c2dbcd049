"""Tests of resizing: the fast way is near Pillow's, and views of an image share its decoding."""

import numpy as np
import pytest
from PIL import Image

from lift_jax.data.images import resize, views
from lift_jax.data.images.cuts import shown
from lift_jax.data.images.decode import Picture


def picture(height, width, seed=0):
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (height // 5 + 2, width // 5 + 2, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.skipif(resize.quick is None, reason="cykooz-resizer has no wheel for this machine")
@pytest.mark.parametrize("interpolation", resize.FILTERS)
@pytest.mark.parametrize(
    "box", [(0, 0, 90, 70), (10, 5, 60, 65), (40, 30, 44, 33), (3.5, 2.25, 50.75, 60.5)]
)
def test_the_fast_way_is_near(interpolation, box):
    exact, fast = (
        resize.resize(picture(70, 90), box, (40, 32), interpolation, fast=way).astype(int)
        for way in (False, True)
    )
    error = np.abs(exact - fast)
    assert exact.shape == (40, 32, 3) and 0 < error.mean() < 0.5 and error.max() <= 5


@pytest.mark.parametrize("level", [0, 1, 254, 255])
@pytest.mark.parametrize("size", [(1, 1), (7, 300), (2000, 9)])
def test_an_even_image_stays_even(size, level):
    for fast in (False, True):
        pixels = np.full((*size, 3), level, np.uint8)
        found = resize.resize(pixels, (0, 0, *size[::-1]), (24, 24), "bicubic", fast=fast)
        assert (found == level).all()


def test_without_the_library_pillow_resizes(monkeypatch):
    monkeypatch.setattr(resize, "quick", None)
    pixels = picture(50, 60)
    exact, fast = (
        resize.resize(pixels, (5, 5, 45, 45), (24, 24), "bicubic", fast=way)
        for way in (False, True)
    )
    assert np.array_equal(exact, fast)


def test_mirrored():
    pixels = picture(5, 7)
    found = resize.mirrored(pixels)
    assert np.array_equal(found, pixels[:, ::-1]) and found.flags.c_contiguous
    assert np.array_equal(resize.mirrored(found), pixels)


def test_views_of_an_image_are_cut_from_one_decoding():
    asked, pixels = [], picture(60, 80)
    image = Picture(60, 80, lambda *part: asked.append(part) or pixels)
    crops = views.RandomCrops(16, 5, "bicubic", 0.08)
    found = crops(image, np.random.default_rng(0))
    cuts = crops.cuts(60, 80, np.random.default_rng(0))
    alone = [shown(image, [cut], 16, "bicubic")[0] for cut in cuts]
    assert np.array_equal(found, alone)
    needs = asked[1:]  # of the views one by one: together they need the largest of each
    assert len(needs) == 5 and asked[0] == tuple(map(max, zip(*needs, strict=True)))
    asked.clear()
    views.TenCrop(16, 4)(image)
    assert len(asked) == 1
