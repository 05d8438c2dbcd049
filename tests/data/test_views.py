"""Tests of views against results of torchvision and the authors, and of the bounds of crops."""

import pickle
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from support.paths import GOLDEN

from lift_jax.data.images import cuts as cuts_module
from lift_jax.data.images.crops import (
    SCHEDULES,
    area_bounds,
    central_box,
    crop_side,
    mda_box,
    min_scale,
    rrc_box,
)
from lift_jax.data.images.cuts import short_side_to
from lift_jax.data.images.decode import Picture
from lift_jax.data.images.views import FiveCrop, TenCrop, TestTransform, TrainTransform
from lift_jax.errors import UserError

RES = 32
N_IMAGES = 7


@pytest.fixture(scope="module")
def stored(golden):
    return golden("transforms")


@pytest.fixture(scope="module")
def images(stored):
    folder = GOLDEN / "images"
    return [Image.open(folder / name).convert("RGB") for name in stored["image_names"]]


def noise(height, width, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def train(kind="mda", res=RES, flip=False, mda="convex", min_area=0.08, epochs=5):
    return TrainTransform(res, kind, "bicubic", mda, min_area, flip, epochs)


def assert_same(found, expected):
    """Asserts that 99.9 % of the values differ by at most one grey level, and all by three."""
    assert found.dtype == np.uint8
    assert found.shape == expected.shape
    off = np.abs(found.astype(int) - expected.astype(int))
    assert np.mean(off <= 1) >= 0.999
    assert off.max() <= 3


def test_jpeg_decodes_to_the_same_pixels(stored, images):
    np.testing.assert_array_equal(np.asarray(images[6]), stored["jpeg_decoded"])


@pytest.mark.parametrize("i", range(N_IMAGES))
def test_plain_view_is_torchvisions(stored, images, i):
    assert_same(TestTransform(RES)(images[i]), stored[f"test_centercrop/{i}"])
    size = short_side_to(images[i].height, images[i].width, RES + RES // 7)
    assert size == tuple(stored[f"resized_size_hw_test/{i}"])


@pytest.mark.parametrize("i", range(3))
def test_plain_view_without_margin_is_torchvisions(stored, images, i):
    view = TestTransform(RES, "bicubic", expand=0)(images[i])
    assert_same(view, stored[f"plain_centercrop/{i}"])


@pytest.mark.parametrize("i", [0, 1, 2, 4])
def test_bilinear_view_is_that_of_lift(stored, images, i):
    view = TestTransform(RES, "bilinear")(images[i])
    assert_same(view, stored[f"lift_centercrop/{i}"])


@pytest.mark.parametrize("i", [0, 3])
def test_five_crops_are_torchvisions(stored, images, i):
    assert_same(FiveCrop(RES)(images[i]), stored[f"fivecrop/{i}"])


def test_bilinear_five_crops_are_the_halves_of_ten(stored, images):
    crop, ten = FiveCrop(RES, 24, "bilinear"), stored["tencrop_bilinear/1"]
    assert_same(crop(images[1]), ten[:5])
    assert_same(crop(images[1].transpose(Image.Transpose.FLIP_LEFT_RIGHT)), ten[5:])
    both = TenCrop(RES, 24, "bilinear")
    assert both.shape == ten.shape
    assert_same(both(images[1]), ten)


@pytest.mark.parametrize("i", range(N_IMAGES))
def test_resized_sizes_are_torchvisions(stored, images, i):
    size = short_side_to(images[i].height, images[i].width, RES + 24)
    assert size == tuple(stored[f"resized_size_hw/{i}"])


@pytest.mark.parametrize("row", range(10))
def test_crop_then_resize_is_torchvisions(stored, images, row):
    i, top, left, height, width = stored["crop_boxes"][row]
    box = (left, top, left + width, top + height)
    found = Picture.of(images[i]).resized(box, (RES, RES), "bicubic")
    assert_same(found, stored["crop_bicubic"][row])
    if row < len(stored["crop_bilinear"]):
        found = Picture.of(images[i]).resized(box, (RES, RES), "bilinear")
        assert_same(found, stored["crop_bilinear"][row])


@pytest.mark.parametrize("mda", SCHEDULES)
@pytest.mark.parametrize("epochs", [5, 15])
def test_smallest_area_follows_the_authors_schedule(stored, mda, epochs):
    found = [min_scale(mda, epoch, epochs) for epoch in range(epochs)]
    np.testing.assert_allclose(found, stored[f"min_scale/{mda}/{epochs}"], rtol=1e-6)


def test_one_epoch_stays_at_the_start_of_the_schedule():
    found = {mda: min_scale(mda, 0, 1) for mda in SCHEDULES}
    assert found == {"convex": 0.08, "linear": 0.08, "concave": 0.08, "min": 0.08, "max": 1.0}


def test_area_bounds_and_sides_are_the_authors(stored):
    draws = stored["get_params_u"]
    for row, sides in zip(stored["get_params_in_out"], stored["get_params_side"], strict=True):
        height, width = int(row[0]), int(row[1])
        low, high = area_bounds(height, width, float(row[2]))
        np.testing.assert_allclose([low, high], row[4:], rtol=1e-6)
        found = [crop_side(height, width, low + (high - low) * u) for u in draws]
        assert found == sides.tolist()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 97), (61, 2), (47, 53)])
def test_mda_boxes_are_squares_inside_the_image(height, width):
    rng = np.random.default_rng(3)
    for low in (0.08, 0.5, 1.0):
        for _ in range(50):
            left, top, right, bottom = mda_box(height, width, low, rng)
            assert right - left == bottom - top >= 1
            assert 0 <= left and right <= width and 0 <= top and bottom <= height


def test_the_whole_square_at_the_end_of_mda():
    left, top, right, bottom = mda_box(53, 47, 1.0, np.random.default_rng(0))
    assert right - left == bottom - top == 47
    assert left == 0


def test_mda_area_is_uniform_between_its_bounds():
    rng = np.random.default_rng(1)
    sides = [b - t for _, t, _, b in (mda_box(400, 400, 0.2, rng) for _ in range(4000))]
    shares = np.square(sides) / 400**2
    np.testing.assert_allclose(
        np.quantile(shares, [0, 0.25, 0.5, 0.75, 1]), [0.2, 0.4, 0.6, 0.8, 1], atol=0.03
    )


def test_rrc_boxes_keep_area_and_aspect():
    rng = np.random.default_rng(2)
    boxes = np.array([rrc_box(300, 500, 0.08, rng) for _ in range(2000)])
    left, top, right, bottom = boxes.T
    assert left.min() >= 0 and top.min() >= 0 and right.max() <= 500 and bottom.max() <= 300
    shares = (right - left) * (bottom - top) / (300 * 500)
    aspects = (right - left) / (bottom - top)
    assert 0.075 < shares.min() < 0.1 and shares.max() > 0.7
    assert 0.74 < aspects.min() < 0.76 and 1.32 < aspects.max() < 1.35
    assert abs(np.mean(np.log(aspects))) < 0.03  # log-uniform: the middle is a square


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [
        (10, 300, (143, 0, 156, 10)),  # too wide: 4/3 of the height
        (300, 10, (0, 143, 10, 156)),  # too tall: 4/3 of the width
        (30, 33, (0, 0, 33, 30)),  # an allowed aspect: everything
    ],
)
def test_central_box(height, width, box):
    assert central_box(height, width) == box


def test_rrc_falls_back_to_the_centre_of_a_strip():
    assert rrc_box(10, 300, 1.0, np.random.default_rng(0)) == (143, 0, 156, 10)


@pytest.mark.parametrize("kind", ["mda", "rrc", "none"])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 211), (17, 3), (37, 29), (8, 8)])
def test_every_size_gives_a_full_view(kind, height, width):
    image = noise(height, width)
    transform = train(kind, flip=True)
    view = transform(image, np.random.default_rng(0), 2)
    assert view.shape == transform.shape == (RES, RES, 3) and view.dtype == np.uint8
    five = FiveCrop(RES)
    assert five(image).shape == five.shape == (5, RES, RES, 3)


def test_a_constant_image_stays_constant():
    image = Image.new("RGB", (23, 41), (7, 130, 251))
    for kind in ("mda", "rrc", "none"):
        view = train(kind)(image, np.random.default_rng(5), 0)
        assert np.all(view == np.array([7, 130, 251]))
    assert np.all(FiveCrop(RES)(image) == np.array([7, 130, 251]))


def test_arrays_and_images_give_the_same_view():
    image = noise(37, 53)
    for make in (TestTransform(RES), FiveCrop(RES)):
        np.testing.assert_array_equal(make(image), make(np.asarray(image)))
    views = [train()(x, np.random.default_rng(0), 1) for x in (image, np.asarray(image))]
    np.testing.assert_array_equal(*views)


def test_kind_none_is_the_test_view():
    image = noise(37, 53)
    view = train("none")(image, np.random.default_rng(0), 1)
    np.testing.assert_array_equal(view, TestTransform(RES)(image))


def test_flip_mirrors_half_of_the_views():
    image = noise(37, 53)
    straight = train("none")(image, np.random.default_rng(0), 0)
    seen = Counter()
    for seed in range(200):
        view = train("none", flip=True)(image, np.random.default_rng(seed), 0)
        seen["straight"] += np.array_equal(view, straight)
        seen["mirrored"] += np.array_equal(view, straight[:, ::-1])
    assert seen.total() == 200
    assert 75 < seen["mirrored"] < 125


def test_same_generator_state_same_view():
    image, transform = noise(37, 53), train("rrc", flip=True)
    first, again, other = (transform(image, np.random.default_rng(seed), 0) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_strips_get_the_same_five_crops_as_ordinary_images(monkeypatch, images):
    expected = FiveCrop(RES)(images[0])
    monkeypatch.setattr(cuts_module, "STRIP", 0)
    found = FiveCrop(RES)(images[0])
    assert np.abs(found.astype(int) - expected).max() <= 3


def test_a_long_strip_needs_little_memory():
    image = Image.new("RGB", (60_000, 1), (9, 9, 9))
    assert np.all(FiveCrop(224)(image) == 9)
    assert np.all(TestTransform(224)(image) == 9)


def test_transforms_travel_to_other_processes():
    for transform in (train(), TestTransform(RES), FiveCrop(RES)):
        assert pickle.loads(pickle.dumps(transform)) == transform


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: train("mdaa"), ["'mdaa'", "'mda'", "train.augment"]),
        (lambda: train(mda="convx"), ["'convx'", "'convex'", "train.mda"]),
        (lambda: train(min_area=0.0), ["train.min_area", "0.0", "0.08"]),
        (lambda: train(min_area=1.5), ["train.min_area", "1.5"]),
        (lambda: train(res=0), ["resolution", "0"]),
        (lambda: TestTransform(RES, "bicubik"), ["'bicubik'", "'bicubic'"]),
        (lambda: FiveCrop(RES, -1), ["test.expand", "-1"]),
    ],
)
def test_mistakes_name_the_key_and_the_remedy(make, words):
    with pytest.raises(UserError) as caught:
        make()
    assert all(word in str(caught.value) for word in words)
