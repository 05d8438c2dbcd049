"""Tests of small images that the device cuts and enlarges: the views equal those of the host."""

import jax
import numpy as np
import pytest

from lift_jax.data import loader
from lift_jax.data.images import on_device
from lift_jax.data.images.views import FiveCrop, RandomCrops, TenCrop, TestTransform, TrainTransform
from lift_jax.data.types import ArrayImages, FileImages, Split
from lift_jax.evaluation import forward
from lift_jax.models.vit.config import VisionConfig
from lift_jax.parallel.mesh import make_mesh, put_batch

HIGH, WIDE, RES = 13, 17, 29  # primes, and no square
N, BATCH = 11, 8


def training(kind, interpolation, flip=True):
    return TrainTransform(RES, kind, interpolation, "linear", 0.08, flip, 3)


@pytest.fixture(scope="module")
def split():
    pixels = np.random.default_rng(0).integers(0, 256, (N, HIGH, WIDE, 3), np.uint8)
    return Split(ArrayImages(pixels, "noise", np.arange(N)), np.arange(N))


VIEWS = [
    training("mda", "bicubic"),
    training("mda", "bilinear", flip=False),
    training("rrc", "bilinear"),
    training("none", "bicubic"),
    TestTransform(RES, "bicubic"),
    TestTransform(RES, "bilinear", expand=0),
    FiveCrop(RES, 5),
    TenCrop(RES, 3, "bilinear"),
    RandomCrops(RES, 3, "bicubic", 0.08),
]


@pytest.mark.parametrize("view", VIEWS, ids=lambda v: f"{type(v).__name__}-{v.interpolation}")
def test_views_of_the_device_are_those_of_the_host(split, view):
    def draw(i):
        if isinstance(view, TrainTransform):
            return np.random.default_rng(i), 1
        return (np.random.default_rng(i),) if isinstance(view, RandomCrops) else ()

    pixels = split.images.pixels
    cuts = np.stack([on_device.fields(view.cuts(HIGH, WIDE, *draw(i)), view) for i in range(N)])
    found = np.asarray(jax.jit(on_device.render, static_argnums=2)(pixels, cuts, RES))
    expected = np.stack([view(pixels[i], *draw(i)) for i in range(N)])
    assert found.shape == (N, *view.shape) and found.dtype == np.uint8
    error = np.abs(found.astype(int) - expected)
    assert error.max() <= 2 and (error > 0).mean() < 0.03


def test_pixels_outside_of_the_box_are_not_read(split):
    """No white of the surroundings shows in the view of a black box."""
    images = np.full((1, HIGH, WIDE, 3), 255, np.uint8)
    images[:, 3:9, 5:11] = 0
    cut = on_device.fields(VIEWS[0].cuts(HIGH, WIDE, np.random.default_rng(0), 0), VIEWS[0])
    cut[:, :2] = (3, 6), (5, 6)
    assert not np.asarray(on_device.render(images, cut[None], RES)).any()


def test_which_images_are_sent_as_they_are(split, tmp_path):
    assert on_device.sent_shape(split.images, FiveCrop(18)) == (HIGH, WIDE, 3)
    assert on_device.sent_shape(split.images, FiveCrop(17)) is None  # as large: the host cuts it
    assert on_device.sent_shape(FileImages(str(tmp_path), ["a.jpg"]), FiveCrop(18)) is None


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_hold_the_images_and_their_cuts(split, workers):
    view = training("mda", "bicubic")
    options = dict(seed=3, epochs=1, batch=BATCH)
    batches = list(loader.train_batches(split, view, **options, workers=workers))
    assert [batch["image"].shape for batch in batches] == [(BATCH, HIGH, WIDE, 3)] * 2
    for batch in batches:
        shown = np.asarray(on_device.render(batch["image"], batch["cut"], RES))
        for i, real in enumerate(batch["mask"]):
            if not real:  # its loss is masked, but not numbers would come through
                assert not shown[i].any()
                continue
            label = batch["label"][i]
            np.testing.assert_array_equal(batch["image"][i], split.images[label])
            rng = np.random.default_rng((3, 0, label))
            expected = view(split.images[label], rng, 0).astype(int)
            assert np.abs(expected - shown[i]).max() <= 1


def test_several_views_a_batch_on_several_devices(split):
    """Cutting moves nothing between devices, and every view is there."""
    mesh, view = make_mesh(8, 1), FiveCrop(RES, 5)
    (batch, _) = loader.eval_batches(split, view, batch=BATCH)
    placed = put_batch(mesh, batch)
    vision = VisionConfig(RES, RES, 8, 1, 1, 8)
    compiled = jax.jit(lambda b: forward.pixels(b, vision)).lower(placed).compile()
    assert not any(word in compiled.as_text() for word in ("all-gather", "all-reduce"))
    found = np.asarray(compiled(placed))
    expected = np.stack([view(split.images[i]) for i in range(BATCH)]).astype(int)
    assert np.abs(found - expected).max() <= 1
