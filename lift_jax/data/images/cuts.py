"""Cuts: the part of an image that a view shows, and the pixels of views by their cuts."""

from itertools import groupby
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from lift_jax.data.images.decode import Picture
from lift_jax.data.images.resize import FILTERS, Box, mirrored

STRIP = 64  # long side / short side above which a resized image is never formed whole


def short_side_to(height: int, width: int, size: int) -> tuple[int, int]:
    """Returns (height, width) with the short side at `size` and the long side cut to an integer."""
    if width <= height:
        return int(size * height / width), size
    return size, int(size * width / height)


def centre(height: int, width: int, res: int) -> tuple[int, int]:
    """Returns (top, left) of the centred res x res square; halves go to the even neighbour."""
    return round((height - res) / 2.0), round((width - res) / 2.0)


def corners(height: int, width: int, res: int) -> list[tuple[int, int]]:
    """Returns (top, left) of the five crops: two above, two below, the centre."""
    down, right = height - res, width - res
    return [(0, 0), (0, right), (down, 0), (down, right), centre(height, width, res)]


class Cut(NamedTuple):
    """The part of an image that a view shows.

    The box of the image is resized to `size` (h, w); the view is the square at `place` (top, left)
    of the result, perhaps mirrored.
    """

    box: Box
    size: tuple[int, int]
    place: tuple[int, int] = (0, 0)
    mirrored: bool = False


def shown(
    image: Picture, cuts: list[Cut], res: int, interpolation: str
) -> list[UInt8[np.ndarray, "{res} {res} 3"]]:
    """Returns the res x res view of each cut.

    The image is decoded once, and cuts that differ in their place alone are resized once.
    """
    groups = [list(alike) for _, alike in groupby(cuts, lambda cut: cut._replace(place=(0, 0)))]
    if len(groups) > 1:
        image = image.held([(alike[0].box, alike[0].size) for alike in groups])
    return [view for alike in groups for view in squares(image, alike, res, interpolation)]


def squares(
    image: Picture, cuts: list[Cut], res: int, interpolation: str
) -> list[UInt8[np.ndarray, "{res} {res} 3"]]:
    """Returns the res x res view of each cut; they differ in their place alone."""
    box, (height, width), _, mirror = cuts[0]
    tops, lefts = zip(*(cut.place for cut in cuts), strict=True)
    if max(height, width) <= STRIP * min(height, width):
        left, top, right, bottom = min(lefts), min(tops), max(lefts) + res, max(tops) + res
        size, window = (height, width), (left, top, right, bottom)
        pixels = image.resized(box, size, interpolation, window, mirror)
        starts = [right - res - x if mirror else x - left for x in lefts]
        return [
            pixels[y - top :, start:][:res, :res] for y, start in zip(tops, starts, strict=True)
        ]
    # A resized 1 x 10,000 strip would fill gigabytes, so only the squares are computed. They are
    # equal up to rounding. Other images are resized whole, because Pillow chooses the order of its
    # two passes by size and rounds in between, which shows on sharp edges.
    source, resample = image.pillow(), FILTERS[interpolation]
    y, x = source.height / height, source.width / width  # source pixels per resized pixel
    ends = source.width, source.height
    boxes = (
        (left * x, top * y, min((left + res) * x, ends[0]), min((top + res) * y, ends[1]))
        for top, left in zip(tops, lefts, strict=True)
    )
    found = [np.asarray(source.resize((res, res), resample, box=box)) for box in boxes]
    return [mirrored(square) for square in found] if mirror else found
