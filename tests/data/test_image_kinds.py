"""Tests of formats, colours and traits of image files, with pixels worked out by hand."""

import io
import struct

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageCms
from support.small_sets import message

from lift_jax.data.images import formats, traits
from lift_jax.data.images.decode import Decoding, open_image
from lift_jax.data.sources import image_files
from lift_jax.data.types import FileImages

RNG = np.random.default_rng(0)
PHOTO = np.kron(RNG.integers(40, 210, (3, 4, 3)), np.ones((16, 16, 1))).astype(np.uint8)


def saved(image, form, **options) -> bytes:
    file = io.BytesIO()
    if form == "HEIF":
        pillow_heif.from_pillow(image).save(file, **options)
    else:
        image.save(file, form, **options)
    return file.getvalue()


def pixels(content, **how):
    return np.asarray(open_image(content, "x", Decoding(**how)))


LOSSLESS = {
    "PNG": {}, "BMP": {}, "TIFF": {}, "PPM": {}, "GIF": None, "WEBP": {"lossless": True},
    "JPEG2000": {}, "JPEG": {"quality": 100, "subsampling": 0},
    "AVIF": {"quality": 100, "subsampling": "4:4:4"}, "HEIF": {"quality": -1, "chroma": 444},
}  # fmt: skip


@pytest.mark.parametrize("form", formats.ENDINGS)
def test_every_format_gives_its_pixels_whatever_its_ending(form, tmp_path):
    options = LOSSLESS[form]
    image = Image.fromarray(PHOTO)
    content = saved(image.quantize(256) if options is None else image, form, **(options or {}))
    assert np.abs(pixels(content).astype(int) - PHOTO).max() <= 3
    for ending in (*formats.ENDINGS[form], ".JPG", ".Png"):
        assert image_files.is_image(f"a{ending}") and image_files.is_image(f"a{ending.upper()}")
        (tmp_path / f"a{ending}").write_bytes(content)
        np.testing.assert_array_equal(FileImages(str(tmp_path), [f"a{ending}"])[0], pixels(content))


def test_the_endings_are_those_of_pillow():
    pillow_heif.register_heif_opener()
    known = {end: name for end, name in Image.registered_extensions().items() if end != ".pfm"}
    known |= {".mpo": "JPEG"}  # several JPEGs in one file; .pfm holds floating-point numbers
    ours = {end: form for form, endings in formats.ENDINGS.items() for end in endings}
    assert ours.items() <= {k: v for k, v in known.items() if v in formats.ENDINGS}.items()
    left = {k for k, v in known.items() if v in formats.ENDINGS} - set(ours)
    assert left <= {".jps", ".dib", ".hif"}


@pytest.mark.parametrize("form", ["EPS", "PDF", "ICO", "TGA"])
def test_other_formats_are_not_opened(form):
    content = saved(Image.fromarray(PHOTO), form)
    assert "no image in a known format" in message(lambda: open_image(content, "x"))


# --- colours ---


def lab_tiff(lab, white=None) -> bytes:
    """Returns a TIFF of one pixel of CIE Lab: L from 0 to 100, a and b signed."""
    data = bytes([round(lab[0] * 2.55), lab[1] & 255, lab[2] & 255])
    tags = {256: 1, 257: 1, 258: None, 259: 1, 262: 8, 273: None, 277: 3, 278: 1, 279: 3}
    tags |= {318: None} if white else {}
    bits = 8 + 2 + 12 * len(tags) + 4
    content = b"II*\0" + struct.pack("<IH", 8, len(tags))
    for tag, value in sorted(tags.items()):
        kind, count = {258: (3, 3), 318: (5, 2)}.get(tag, (4, 1))
        place = {258: bits, 273: bits + 6, 318: bits + 10}.get(tag, value)
        content += struct.pack("<HHII", tag, kind, count, place)
    content += struct.pack("<I3H", 0, 8, 8, 8) + data + b"\0"
    for part in white or ():
        content += struct.pack("<II", round(part * 10_000), 10_000)
    return content


# CIE Lab (D50) by its definition, Bradford to D65, and the curve of sRGB
@pytest.mark.parametrize(
    "lab, rgb",
    [
        ((100, 0, 0), (255, 255, 255)), ((50, 0, 0), (119, 119, 119)),
        ((50, 40, 20), (185, 88, 87)), ((70, -40, 30), (102, 190, 113)),
        ((30, 10, -50), (22, 69, 150)), ((89, -67, 26), (0, 255, 170)),  # past the gamut
    ],
)  # fmt: skip
def test_lab_is_converted_by_its_formula(lab, rgb):
    assert np.abs(pixels(lab_tiff(lab))[0, 0].astype(int) - rgb).max() <= 1
    np.testing.assert_array_equal(pixels(lab_tiff(lab, (0.3457, 0.3585))), pixels(lab_tiff(lab)))
    assert traits.find(lab_tiff(lab)) == ("Lab",)


def test_lab_of_another_white_is_refused():
    content = lab_tiff((50, 0, 0), (0.3127, 0.3290))  # D65
    assert "another white than D50" in message(lambda: pixels(content))


def test_sixteen_bits_are_scaled_and_twelve_told():
    for values, trait in (
        ([[0, 257, 32_896, 65_535]], "16-bit greyscale"),
        ([[0, 4_095, 12, 7]], "16-bit greyscale, values below 4,096"),
    ):
        content = saved(Image.fromarray(np.array(values, np.uint16)), "PNG")
        expected = np.round(np.array(values) * 255 / 65_535)
        np.testing.assert_array_equal(pixels(content)[..., 0], expected)
        assert traits.find(content) == (trait,)


def p3() -> bytes:
    """Returns a profile that calls itself Display P3."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    name = "sRGB built-in"
    assert (wide := name.encode("utf-16-be")) in profile
    return profile.replace(wide, "Display P3   ".encode("utf-16-be"))


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


RGB = Image.fromarray(PHOTO)
KINDS = [
    ((), saved(RGB, "JPEG")),
    ((), saved(RGB, "PNG", icc_profile=ImageCms.ImageCmsProfile(
        ImageCms.createProfile("sRGB")).tobytes())),
    ((), saved(RGB, "JPEG", exif=turned(1))),
    ((), b"no image"),
    (("EXIF orientation",), saved(RGB, "JPEG", exif=turned(6))),
    (("EXIF orientation",), saved(RGB, "PNG", exif=turned(3))),
    (("CMYK",), saved(RGB.convert("CMYK"), "JPEG")),
    (("greyscale",), saved(RGB.convert("L"), "JPEG")),
    (("black and white",), saved(RGB.convert("1"), "PNG")),
    (("palette",), saved(RGB.quantize(8), "PNG")),
    (("transparency",), saved(RGB.convert("RGBA"), "PNG")),
    (("palette", "transparency"), saved(RGB.quantize(8), "PNG", transparency=0)),
    (("greyscale", "transparency"), saved(RGB.convert("LA"), "PNG")),
    (("several frames",), saved(RGB, "WEBP", save_all=True,
                                append_images=[Image.new("RGB", RGB.size)])),
    (("several frames",), saved(RGB, "TIFF", save_all=True, append_images=[RGB.rotate(180)])),
    (("colour profile: Display P3",), saved(RGB, "JPEG", icc_profile=p3())),
]  # fmt: skip


@pytest.mark.parametrize("expected, content", KINDS)
def test_traits_of_files(expected, content):
    found = tuple(trait.strip() for trait in traits.find(content))
    assert found == expected
    for trait in found:
        assert traits.meaning(trait, upright=True)


def test_the_first_frame_is_read():
    content = saved(RGB, "TIFF", save_all=True, append_images=[Image.new("RGB", RGB.size)])
    np.testing.assert_array_equal(pixels(content), PHOTO)


# --- what is told ---


def test_training_tells_of_orientations(tmp_path):
    for i in range(10):
        content = saved(RGB, "JPEG", exif=turned(6 if i < 3 else 1))
        (tmp_path / f"{i}.jpg").write_bytes(content if i != 9 else b"damaged")
    images = FileImages(str(tmp_path), [f"{i}.jpg" for i in range(10)])
    assert traits.orientation_note(images) == (
        "Of 10 training images checked, 3 have an EXIF orientation. They are not rotated "
        "(data.exif=False)."
    )
    upright = FileImages(str(tmp_path), images.paths, how=Decoding(exif=True))
    assert "They are rotated upright (data.exif=True)." in traits.orientation_note(upright)
    assert traits.orientation_note(images.take(np.arange(3, 10))) == ""


def test_a_size_that_the_pixels_do_not_have_is_damage():
    content = saved(RGB, "HEIF")
    place = content.index(b"clap") + 4  # the part that is shown: width and height as fractions
    assert struct.unpack(">4I", content[place : place + 16]) == (RGB.width, 1, RGB.height, 1)
    for width, height in ((RGB.width + 6, RGB.height), (RGB.width, 200)):
        wrong = content[:place] + struct.pack(">4I", width, 1, height, 1) + content[place + 16 :]
        said = message(lambda wrong=wrong: pixels(wrong))
        assert f"its head states {width} x {height} pixels, and it holds " in said
