"""Tests of decoding: the pixels of an image, and the error for a file that is none."""

import io
import subprocess
import sys
import zlib
from collections import Counter

import numpy as np
import pytest
import simplejpeg
from PIL import Image
from sklearn.datasets import load_sample_images

from lift_jax.data import types
from lift_jax.data.images import decode, views
from lift_jax.errors import UserError


def message(call):
    with pytest.raises(UserError) as caught:
        call()
    return str(caught.value)


def saved(tmp_path, image, name="image.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def first_pixel(path):
    pixels = np.asarray(decode.read_image(path))
    assert pixels.shape[2] == 3 and pixels.dtype == np.uint8
    return tuple(pixels[0, 0].tolist())


def test_every_mode_becomes_rgb(tmp_path):
    half = Image.new("RGBA", (3, 3), (200, 100, 0, 51))  # a fifth of the colour over white
    assert first_pixel(saved(tmp_path, half)) == (244, 224, 204)
    clear = Image.new("LA", (3, 3), (9, 0))
    assert first_pixel(saved(tmp_path, clear)) == (255, 255, 255)
    assert first_pixel(saved(tmp_path, Image.new("L", (3, 3), 77))) == (77, 77, 77)
    assert first_pixel(saved(tmp_path, Image.new("1", (3, 3), 1))) == (255, 255, 255)
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    red = first_pixel(saved(tmp_path, cmyk, "c.jpg", quality=100))
    assert red[0] > 250 and max(red[1:]) < 5


def test_palettes_with_transparency(tmp_path):
    image = Image.new("P", (3, 3), 1)
    image.putpalette([0, 0, 0, 200, 100, 0])
    assert first_pixel(saved(tmp_path, image)) == (200, 100, 0)
    assert first_pixel(saved(tmp_path, image, transparency=b"\xff\x33")) == (244, 224, 204)
    assert first_pixel(saved(tmp_path, image, "g.gif", transparency=1)) == (255, 255, 255)
    key = Image.new("RGB", (3, 3), (5, 6, 7))
    assert first_pixel(saved(tmp_path, key, transparency=(5, 6, 7))) == (255, 255, 255)


def test_sixteen_bits_are_scaled(tmp_path):
    for value, level in ((0, 0), (128, 0), (129, 1), (257, 1), (32_768, 128), (65_535, 255)):
        image = Image.fromarray(np.full((3, 3), value, np.uint16))
        assert first_pixel(saved(tmp_path, image)) == (level,) * 3
        assert first_pixel(saved(tmp_path, image, "i.tif")) == (level,) * 3
    wide = Image.fromarray(np.full((3, 3), 70_000, np.int32))
    assert "70000" in message(lambda: np.asarray(decode.read_image(saved(tmp_path, wide, "w.tif"))))
    real = Image.fromarray(np.zeros((3, 3), np.float32))
    assert "floating-point" in message(
        lambda: np.asarray(decode.read_image(saved(tmp_path, real, "f.tif")))
    )


def test_orientation_is_applied_where_asked_for(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    half = Image.new("RGB", (32, 16))
    half.paste((255, 255, 255), (0, 0, 16, 16))  # the left half, which is above once turned
    for name in ("turned.jpg", "turned.png"):
        path = saved(tmp_path, half, name, exif=exif)
        plain = decode.read_image(path)
        assert (plain.height, plain.width) == np.asarray(plain).shape[:2] == (16, 32)
        turned = decode.read_image(path, decode.Decoding(exif=True))
        assert (turned.height, turned.width) == np.asarray(turned).shape[:2] == (32, 16)
        assert np.asarray(plain)[8, 2].min() > 250 > 5 > np.asarray(plain)[8, 29].max()
        assert np.asarray(turned)[2, 8].min() > 250 > 5 > np.asarray(turned)[29, 8].max()
        same = saved(tmp_path, half, f"plain_{name}")
        right = decode.read_image(same, decode.Decoding(exif=True))
        assert (right.height, right.width) == (16, 32)


def jpeg(image=None):
    stream = io.BytesIO()
    rng = np.random.default_rng(0)
    image = image or Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8))
    image.save(stream, "JPEG")
    return stream.getvalue()


def png(size):
    """Returns a PNG whose header claims `size`."""
    stream = io.BytesIO()
    Image.new("L", (1, 1)).save(stream, "PNG")
    body = bytearray(stream.getvalue())
    body[16:24] = size[0].to_bytes(4, "big") + size[1].to_bytes(4, "big")

    body[29:33] = zlib.crc32(body[12:29]).to_bytes(4, "big")
    return bytes(body)


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (jpeg()[:700], "truncated"),
        (b"", "the file is empty"),
        (b"<html>404</html>", "no image in a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image in a known format"),
        (png((40, 40)), "truncated"),
        (png((10_000, 9_000)), "10000 x 9000"),
        (png((60_000, 60_000)), "decompression bomb"),
        (None, "no such file"),
    ],
    ids=["cut", "empty", "page", "program", "short", "large", "bomb", "missing"],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_unreadable_images_name_file_cause_and_remedy(tmp_path, content, cause):
    path = tmp_path / "some image.jpg"
    if content is not None:
        path.write_bytes(content)
    split = types.Split(types.FileImages(str(tmp_path), [path.name]), np.zeros(1))
    said = message(lambda: np.asarray(split.images[0]))
    assert str(path) in said and cause in said and "Replace the file" in said


def test_two_thousand_damaged_files(tmp_path):
    """A file with bytes changed, cut or added gives an image, or a UserError that names it."""
    rng, outcomes = np.random.default_rng(0), Counter()
    noise = Image.fromarray(rng.integers(0, 256, (24, 30, 3), np.uint8))
    kinds = [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("GIF", {}), ("WEBP", {}),
             ("TIFF", {}), ("BMP", {}), ("PPM", {})]  # fmt: skip
    for kind, options in kinds:
        stream = io.BytesIO()
        noise.save(stream, kind, **options)
        for trial in range(250):
            body = np.frombuffer(stream.getvalue(), np.uint8).copy()
            body[rng.integers(0, min(len(body), 400), 3)] = rng.integers(0, 256, 3)
            if trial % 2:
                body = body[: rng.integers(1, 2 * len(body))]
            try:
                how = decode.Decoding(fast=trial % 3 == 0, exif=trial % 5 == 0)
                picture = decode.open_image(body.tobytes(), "some name", how)
                assert np.asarray(picture).shape == (picture.height, picture.width, 3)
                outcomes["image"] += 1
            except UserError as error:
                assert "some name" in str(error)
                outcomes["error"] += 1
    assert outcomes["image"] > 200 and outcomes["error"] > 200


def test_corrupt_exif_is_silent_outside_of_tests(tmp_path):
    # Pillow warns of this while it opens the file; the module's filter takes effect at import.
    exif = b"Exif\0\0II*\0\x08\0\0\0\xff\0" + bytes(range(40))
    path = saved(tmp_path, Image.new("CMYK", (7, 5)), "e.jpg", exif=exif)
    code = f"import lift_jax.data.images.decode as s; print(s.read_image({str(path)!r}).width)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("7\n", "")
    with pytest.raises(UserError, match="EXIF"):  # the file is one that Pillow does warn of
        decode.read_image(path)


# --- the fast decoder ---


def smooth(height, width, seed=0):
    """Returns a picture with edges and slopes, like a photograph."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (height // 9 + 2, width // 9 + 2, 3), np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def encoded(image, **options):
    stream = io.BytesIO()
    image.save(stream, "JPEG", **options)
    return stream.getvalue()


def by_pillow(content):
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


@pytest.mark.parametrize("options", [
    {"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2}, {"progressive": True},
    {"quality": 30}, {"quality": 100}, {"optimize": True}, {"restart_marker_blocks": 3},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("size", [(64, 48), (41, 53), (7, 1), (1, 1), (200, 3), (375, 500)])
def test_jpegs_have_the_pixels_of_pillow(size, options):
    content = encoded(smooth(*size), **options)
    picture = decode.open_image(content, "x")
    assert np.array_equal(np.asarray(picture), by_pillow(content))
    grey = encoded(smooth(*size).convert("L"), **options)
    assert np.array_equal(np.asarray(decode.open_image(grey, "x")), by_pillow(grey))


def test_odd_jpegs_are_left_to_pillow():
    cmyk = encoded(smooth(40, 50).convert("CMYK"))
    assert simplejpeg.decode_jpeg_header(cmyk)[2] not in ("YCbCr", "Gray")
    assert np.array_equal(np.asarray(decode.open_image(cmyk, "x")), by_pillow(cmyk))
    more = encoded(smooth(40, 50)) + b"bytes that do not belong here"
    assert np.array_equal(np.asarray(decode.open_image(more, "x")), by_pillow(more))


def test_views_have_the_pixels_of_pillow():
    content = encoded(smooth(375, 500))
    image, picture = Image.open(io.BytesIO(content)), decode.open_image(content, "x")
    box = (31, 12, 331, 312)
    view = picture.resized(box, (224, 224), "bicubic")
    wanted = image.crop(box).resize((224, 224), Image.Resampling.BICUBIC)
    assert np.array_equal(view, np.asarray(wanted))
    for transform in (views.TestTransform(224), views.TenCrop(224, 24)):
        assert np.array_equal(transform(picture), transform(image))


def test_fast_views_are_near():
    """The bounds in the docstring of Decoding hold on a photograph of 427 x 640 pixels."""
    photo = Image.fromarray(load_sample_images().images[0])
    for width, box, found in ((500, (31, 12, 331, 312), 500), (1500, (5, 7, 805, 807), 563)):
        content = encoded(photo.resize((width, width * 2 // 3)), quality=90)
        fast = decode.open_image(content, "x", decode.Decoding(fast=True))
        assert fast.load(224 / (box[2] - box[0]), 1.0).shape[1] == found
        exact = decode.open_image(content, "x").resized(box, (224, 224), "bicubic")
        error = np.abs(fast.resized(box, (224, 224), "bicubic") - exact.astype(int))
        assert 0.1 < error.mean() < 4 and np.percentile(error, 99) < 25


def test_boxes_are_those_of_the_image_as_it_was_taken():
    """A picture with a third of the pixels shows the same part of the image."""
    rng = np.random.default_rng(0)
    third = rng.integers(0, 256, (20, 30, 3), np.uint8)
    picture = decode.Picture(60, 90, lambda *_: third)
    assert np.array_equal(
        picture.resized((30, 15, 60, 45), (10, 10), "bicubic"), third[5:15, 10:20]
    )
    mirrored = picture.mirrored().resized((30, 15, 60, 45), (10, 10), "bicubic")
    assert np.array_equal(mirrored, third[5:15, 19:9:-1])
    # a box that ends inside of pixels: column c of a slope is 4 c + 2 at its middle
    columns = (8 * np.arange(30) + 4).astype(np.uint8)[None, :, None]
    slope = decode.Picture(60, 60, lambda *_: np.tile(columns, (30, 1, 3)))
    view = slope.resized((7, 7, 47, 47), (20, 20), "bilinear")[10, 2:-2, 0].astype(int)
    assert np.abs(view - (4 * (7 + 2 * np.arange(20)[2:-2] + 1))).max() <= 1


@pytest.mark.parametrize(("error", "cause"), [
    (PermissionError(13, "Permission denied", "a.png"), "this user may not read it"),
    (OSError(5, "Input/output error", "a.png"), "Input/output error. Replace"),
])  # fmt: skip
def test_an_error_of_the_disk_is_said_in_words(error, cause, tmp_path, monkeypatch):
    path = saved(tmp_path, Image.new("RGB", (4, 4)))

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(decode, "open_regular", fail)
    said = message(lambda: decode.read_image(path))
    assert f"{path}: {cause}" in said and "Errno" not in said and "a.png" not in said
