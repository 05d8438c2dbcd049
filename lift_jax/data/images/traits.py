"""Traits of image files that change how they are read: orientation, colours, transparency, frames.

They are found in the head of a file, but for 12-bit values, which only the pixels show.
"""

import io
import time
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
from PIL import Image, ImageCms

from lift_jax.data.images.decode import ORIENTATION
from lift_jax.data.images.formats import openable
from lift_jax.data.types import EncodedImages
from lift_jax.errors import UserError

TURNED = "EXIF orientation"
PROFILE = "colour profile"
MEANING = {  # how an image with the trait is read
    "CMYK": "converted without its colour profile",
    "greyscale": "three equal channels",
    "16-bit greyscale": "scaled from 0 to 65,535",
    "16-bit greyscale, values below 4,096": "scaled from 0 to 65,535, so nearly black: rescale it",
    "black and white": "three equal channels",
    "palette": "the colours of the palette",
    "Lab": "converted to sRGB",
    "transparency": "laid over white",
    "several frames": "the first alone is read",
    PROFILE: "taken as sRGB",
}
TWELVE_BITS = 4096
SAMPLE, SECONDS = 256, 1.0  # images that are looked at before training, and for how long


def find(content: bytes) -> tuple[str, ...]:
    """Returns the traits of the image in a file's bytes, () for an ordinary one or a damaged one.

    A profile other than sRGB is given with its name, as "colour profile: Display P3".
    """
    found = []
    with suppress(Exception), Image.open(io.BytesIO(content), formats=openable(content)) as image:
        if image.getexif().get(ORIENTATION, 1) in range(2, 9):
            found.append(TURNED)
        found += _colours(image)
        if image.has_transparency_data:
            found.append("transparency")
        if getattr(image, "is_animated", False) and image.format != "MPO":
            found.append("several frames")
        found += _profile(image)
    return tuple(found)


def meaning(trait: str, upright: bool) -> str:
    """Returns how images with a trait are read; `upright` if data.exif is set."""
    if trait == TURNED:
        return (
            "rotated upright" if upright else "not rotated, as in the papers (data.exif=True does)"
        )
    return MEANING[trait.split(":")[0]]


def orientation_note(images: EncodedImages) -> str:
    """Returns a sentence on how many of the images carry an EXIF orientation, "" if none does.

    Up to `SAMPLE` images are looked at, drawn over all, for at most `SECONDS`.
    """
    rows = np.random.default_rng(0).permutation(len(images))[:SAMPLE].tolist()
    turned, looked, end = 0, 0, time.monotonic() + SECONDS
    for i in rows:
        if time.monotonic() > end:
            break
        looked += 1
        with suppress(UserError):  # training names the image, or skips it
            turned += TURNED in find(images.content(i))
    if not turned:
        return ""
    done = "rotated upright" if images.how.exif else "not rotated"
    return (
        f"Of {looked:,} training images checked, {turned:,} have an EXIF orientation. They "
        f"are {done} (data.exif={images.how.exif})."
    )


def _colours(image: Image.Image) -> Sequence[str]:
    """Returns the trait of an image's mode, if it is not plain RGB."""
    mode = image.mode
    if mode.startswith("I"):
        low = np.asarray(image).max() < TWELVE_BITS
        return ["16-bit greyscale" + ", values below 4,096" * bool(low)]
    names = {"CMYK": "CMYK", "L": "greyscale", "LA": "greyscale", "1": "black and white",
             "P": "palette", "PA": "palette", "LAB": "Lab"}  # fmt: skip
    return [names[mode]] if mode in names else []


def _profile(image: Image.Image) -> Sequence[str]:
    """Returns the name of an RGB image's colour profile, if it is another than sRGB."""
    content = image.info.get("icc_profile")
    if not content or image.mode not in ("RGB", "RGBA"):
        return []
    name = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(content))).strip()
    return [] if "srgb" in name.lower() else [f"{PROFILE}: {name[:40]}"]
