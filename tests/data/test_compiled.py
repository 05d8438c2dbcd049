"""Tests of the compiled filters: the bytes of Pillow for any size, and when they come into use."""

import math
import sys
import threading

import numpy as np
import pytest
from PIL import Image

from lift_jax.data.images import resize
from lift_jax.data.images.cuts import Cut, corners, short_side_to, shown
from lift_jax.data.images.decode import Picture
from lift_jax.data.images.views import FiveCrop, TestTransform, TrainTransform
from lift_jax.data.loader import train_batches
from lift_jax.data.types import FileImages, Split

compiled = pytest.importorskip("lift_jax.data.images.compiled", reason="no wheel of Numba")

FILTERS = resize.FILTERS
SIZES = [  # height and width before, and after
    ((375, 500), (256, 341)), ((500, 375), (341, 256)), ((300, 300), (224, 224)),
    ((224, 224), (224, 224)), ((30, 40), (224, 224)), ((1, 1), (5, 7)), ((5, 7), (1, 1)),
    ((1, 90), (3, 11)), ((90, 1), (11, 3)), ((2000, 31), (64, 30)), ((31, 2000), (30, 64)),
    ((21, 155), (333, 255)),  # rounding lets a filter reach a pixel more than twice its support
]  # fmt: skip


def noise(height, width, seed=0):
    """Returns an image whose pixels overshoot when they are filtered: half of them 0 or 255."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width, 4), np.uint8)
    return np.where(rng.random((height, width, 1)) < 0.5, pixels, 255 * (pixels > 127)).astype("u1")


def by_pillow(pixels, box, size, interpolation):
    image = Image.fromarray(np.ascontiguousarray(pixels[:, :, :3]))
    return np.asarray(image.resize(size[::-1], FILTERS[interpolation], box=box))


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize(("before", "after"), SIZES)
def test_the_bytes_are_pillows(before, after, interpolation):
    pixels = noise(*before)
    box, window = (0, 0, *before[::-1]), (0, 0, *after[::-1])
    found = compiled.resize(pixels, box, after, window, interpolation == "bicubic")
    assert np.array_equal(found, by_pillow(pixels, box, after, interpolation))


def test_the_bytes_are_pillows_for_random_sizes_boxes_windows_and_mirroring():
    rng = np.random.default_rng(0)
    for i in range(300):
        height, width, *after = np.exp(rng.uniform(0, np.log(300), 4)).astype(int).tolist()
        (top, bottom), (left, right) = (np.sort(rng.integers(0, side, 2)) for side in after)
        window = int(left), int(top), int(right) + 1, int(bottom) + 1
        box = (0, 0, width, height)
        if i % 3:  # with borders inside of pixels
            box = rng.random() * width / 2, rng.random() * height / 2, width - 0.4, height - 0.3
        mirror = rng.random() < 0.5
        interpolation, pixels = ("bicubic", "bilinear")[i % 2], noise(height, width, seed=i)
        found = compiled.resize(pixels, box, tuple(after), window, i % 2 == 0, mirror)
        wanted = by_pillow(pixels, box, tuple(after), interpolation)
        wanted = wanted[top : bottom + 1, left : right + 1][:, :: -1 if mirror else 1]
        assert np.array_equal(found, wanted), (height, width, box, after)


def test_the_axis_that_is_resized_first_is_the_one_of_pillow():
    """The order shows, for the result of the first axis is rounded to bytes."""
    for height, width in ((100, 100), (120, 100), (121, 100), (300, 100), (100, 300)):
        pixels, size = noise(height, width), (100, 90)
        one, other = (
            compiled.unpacked(found) for found in both_orders(pixels.view(np.uint32)[:, :, 0], size)
        )
        first = compiled.vertical_first((height, width), size)
        assert first == (height in (121, 300))  # by more than twice as many pixels
        wanted = by_pillow(pixels, (0, 0, width, height), size, "bicubic")
        assert np.array_equal(other if first else one, wanted)
        assert height == 100 or not np.array_equal(one if first else other, wanted)


def both_orders(packed, size):
    y, x = (
        compiled.weights(before, 0, before, after, 0, after, True)
        for before, after in zip(packed.shape, size, strict=True)
    )
    yield compiled.along_rows(compiled.along_rows(packed, *x), *y)
    yield np.ascontiguousarray(compiled.along_rows(compiled.along_rows(packed.T, *y), *x).T)


def test_the_weights_of_halving_by_hand():
    """A triangle of half-width 2 about the border of pixels 1 and 2: 1/8, 3/8, 3/8, 1/8."""
    starts, found = compiled.weights(8, 0, 8, 4, 1, 2, False)
    assert starts.tolist() == [1]
    assert found[0].tolist()[:4] == [2**22 // 8, 3 * 2**22 // 8, 3 * 2**22 // 8, 2**22 // 8]
    assert not found[0, 4:].any()


@pytest.fixture
def fresh(monkeypatch):
    """Lets this process begin to count pixels anew, and compile after few of them."""
    monkeypatch.setattr(resize, "_pixels", 0)
    monkeypatch.setattr(resize, "_compiled", None)
    monkeypatch.setattr(resize, "COMPILE_AFTER", 8_000)


def wait_for_the_thread():
    for thread in threading.enumerate():
        if thread.name == resize.THREAD:
            thread.join()


def test_views_are_the_same_before_and_after_compiling(fresh, monkeypatch):
    image = noise(90, 120)
    whole = 90 * 120
    monkeypatch.setattr(resize, "COMPILE_AFTER", 2 * whole)  # the third way passes it
    ways = (
        lambda: TrainTransform(32, "mda", "bicubic", "convex", 0.08, True, 3)(
            image, np.random.default_rng(0), 1
        ),
        lambda: TestTransform(32, "bilinear")(image),
        lambda: FiveCrop(32, 4)(image),
    )
    before = [way() for way in ways]
    assert 2 * whole < resize._pixels < 3 * whole
    wait_for_the_thread()
    assert resize._compiled is compiled
    for way, wanted in zip(ways, before, strict=True):
        assert np.array_equal(way(), wanted)


def test_three_channels_are_pillows_own(fresh, monkeypatch):
    pixels = noise(40, 50)[:, :, :3]
    before = resize.resize(pixels, (3, 2, 30, 20), (16, 16), "bicubic")
    assert resize._pixels == 0, "the filters cannot serve these, so they are no reason to compile"
    monkeypatch.setattr(resize, "_compiled", compiled)
    assert np.array_equal(resize.resize(pixels, (3, 2, 30, 20), (16, 16), "bicubic"), before)


def test_without_numba_pillow_goes_on(fresh, monkeypatch):
    monkeypatch.setitem(sys.modules, "lift_jax.data.images.compiled", None)
    resize.compile_filters()
    assert resize._compiled is None
    assert resize.resize(noise(9, 9), (0, 0, 9, 9), (4, 4), "bicubic").shape == (4, 4, 3)


@pytest.mark.parametrize("ready", [False, True])
def test_a_mirrored_view_is_the_view_mirrored(fresh, monkeypatch, ready):
    """Also where several squares are cut from one resized image, and from a thin strip."""
    if ready:
        monkeypatch.setattr(resize, "_compiled", compiled)
    for height, width in ((90, 120), (120, 90), (1, 90)):
        image, size = Picture.of(noise(height, width)), short_side_to(height, width, 40)
        cuts = [Cut((0, 0, width, height), size, place) for place in corners(*size, 32)]
        straight = shown(image, cuts, 32, "bicubic")
        turned = shown(image, [cut._replace(mirrored=True) for cut in cuts], 32, "bicubic")
        assert np.array_equal(turned, np.stack(straight)[:, :, ::-1])


def test_batches_are_the_same_whichever_images_came_after_compiling(fresh, monkeypatch, tmp_path):
    for i in range(6):
        Image.fromarray(noise(50 + i, 70, seed=i)[:, :, :3]).save(tmp_path / f"{i}.jpg")
    files = FileImages(str(tmp_path), [f"{i}.jpg" for i in range(6)])
    transform = TrainTransform(32, "rrc", "bicubic", "convex", 0.08, True, 2)

    def read():
        batches = train_batches(Split(files, np.zeros(6)), transform, seed=0, epochs=2, batch=3)
        return [batch["image"] for batch in batches]

    # the filters are compiled on the way, and used for the next reading at the least
    found = read()
    wait_for_the_thread()
    assert resize._compiled is compiled
    later = read()
    monkeypatch.setattr(resize, "_compiled", None)
    monkeypatch.setattr(resize, "COMPILE_AFTER", math.inf)
    for wanted, *others in zip(read(), found, later, strict=True):
        assert all(np.array_equal(wanted, other) for other in others)
