"""Cutting and resizing of pixels: Pillow's exact levels, or nearly those four times as fast."""

import math
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

try:
    import cykooz_resizer as quick
except ImportError:  # without a wheel for Linux on 64-bit Arm, where Pillow does its work
    quick: Any = None

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
ALIKE = {"bicubic": "catmull_rom", "bilinear": "bilinear"}  # their names in `quick`

Pixels = UInt8[np.ndarray, "h w c"]
Box = tuple[int, int, int, int]  # left, top, right, bottom
Part = tuple[float, float, float, float]  # the same, with borders inside of pixels


def resize(
    pixels: Pixels, box: Part, width: int, height: int, interpolation: str, fast: bool = False
) -> UInt8[np.ndarray, "{height} {width} 3"]:
    """Cuts out a box of pixels with three channels and resizes it; a fourth channel is ignored.

    The crop comes first because Pillow's `resize(box=...)` also reads pixels outside the box.
    Pixels at the border are read whole. With `fast`, SIMD code computes the same filters with fewer
    bits, so that a fifth of the grey levels differ, nearly all by one.
    """
    left, top, right, bottom = int(box[0]), int(box[1]), math.ceil(box[2]), math.ceil(box[3])
    inside = box[0] - left, box[1] - top, box[2] - left, box[3] - top
    if fast and quick is not None:
        return _quickly(pixels[top:bottom, left:right, :3], inside, width, height, interpolation)
    part = _cut(pixels, left, top, right, bottom)
    return np.asarray(part.resize((width, height), FILTERS[interpolation], box=inside))


def _cut(pixels: Pixels, left: int, top: int, right: int, bottom: int) -> Image.Image:
    """Returns a part of an image for Pillow, in mode RGB.

    Pillow holds four bytes for each pixel, so a fourth channel saves it from rearranging them. In
    mode RGB it does not resize the fourth channel, which saves a fifth of the time.
    """
    rows = np.ascontiguousarray(pixels)
    _, width, channels = rows.shape
    part = rows.data.cast("B")[(top * width + left) * channels :]
    size, mode = (right - left, bottom - top), "RGBX"[:channels]
    return Image.frombytes("RGB", size, part, "raw", mode, width * channels)


def _quickly(
    part: Pixels, inside: Part, width: int, height: int, interpolation: str
) -> UInt8[np.ndarray, "{height} {width} 3"]:
    left, top, right, bottom = inside
    rgb, kernel = quick.PixelType.U8x3, quick.FilterType[ALIKE[interpolation]]
    source = quick.ImageData(part.shape[1], part.shape[0], rgb, part.tobytes())
    target = quick.ImageData(width, height, rgb)
    options = quick.ResizeOptions(quick.ResizeAlg.convolution(kernel))
    if inside != (0, 0, *part.shape[1::-1]):
        options.crop_box = quick.CropBox(left, top, right - left, bottom - top)
    quick.Resizer().resize(source, target, options)  # a new one costs 2 us and is this thread's
    return np.frombuffer(target.get_buffer(), np.uint8).reshape(height, width, 3)


def mirrored(pixels: Pixels) -> Pixels:
    """Exchanges left and right.

    NumPy copies an image backwards pixel by pixel, or a channel of it nine times as fast.
    """
    found = np.empty_like(pixels, order="C")
    for channel in range(pixels.shape[2]):
        found[..., channel] = pixels[:, ::-1, channel]
    return found
