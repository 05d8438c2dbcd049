"""Cutting and resizing of pixels: Pillow's exact levels, or nearly those four times as fast.

A process that resizes many photographs compiles Pillow's filters (`compiled`), which then give the
same levels sooner.
"""

import contextlib
import importlib
import math
import threading
from types import ModuleType
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

# Pixels that are resized before the filters are compiled: 2,100 photographs of 500 x 375. On as
# many more, compiled filters save what compiling them costs.
COMPILE_AFTER = 4 * 10**8
THREAD = "lift_jax compiles filters"

Pixels = UInt8[np.ndarray, "h w c"]
Box = tuple[int, int, int, int]  # left, top, right, bottom
Part = tuple[float, float, float, float]  # the same, with borders inside of pixels

_compiled: ModuleType | None = None
_pixels, _lock = 0, threading.Lock()  # resized so far; guards that number


def resize(
    pixels: Pixels, box: Part, size: tuple[int, int], interpolation: str,
    window: Box | None = None, mirror: bool = False, fast: bool = False,
) -> UInt8[np.ndarray, "y x 3"]:  # fmt: skip
    """Cuts out a box of pixels, resizes it, and returns a part of the result.

    The crop comes first because Pillow's `resize(box=...)` also reads pixels outside the box.
    Pixels at the border are read whole.

    Args:
        pixels: an image with three channels, or with a fourth one that is ignored.
        box: what to cut out, in pixels of the image.
        size: height and width to which the box is resized.
        interpolation: a key of `FILTERS`.
        window: the part of the resized box to return; None: all of it.
        mirror: exchange left and right of that part.
        fast: compute the same filters with fewer bits by SIMD code, so that a fifth of the grey
            levels differ, nearly all by one.
    """
    height, width = size
    shown = window or (0, 0, width, height)
    left, top, right, bottom = int(box[0]), int(box[1]), math.ceil(box[2]), math.ceil(box[3])
    inside = box[0] - left, box[1] - top, box[2] - left, box[3] - top
    if fast and quick is not None:
        part = pixels[top:bottom, left:right, :3]
        whole = _quickly(part, inside, width, height, interpolation)
    elif pixels.shape[2] == 4 and (filters := _filters((bottom - top) * (right - left))):
        part = np.ascontiguousarray(pixels)[top:bottom, left:right]
        return filters.resize(part, inside, size, shown, interpolation == "bicubic", mirror)
    else:
        part = _cut(pixels, left, top, right, bottom)
        whole = np.asarray(part.resize((width, height), FILTERS[interpolation], box=inside))
    found = whole[shown[1] : shown[3], shown[0] : shown[2]]
    return mirrored(found) if mirror else found


def _filters(pixels: int) -> ModuleType | None:
    """Counts pixels to be resized; returns the compiled filters as soon as there are some."""
    global _pixels
    if _compiled is None:
        with _lock:
            before, _pixels = _pixels, _pixels + pixels
        if before < COMPILE_AFTER <= before + pixels:
            threading.Thread(target=compile_filters, name=THREAD).start()
    return _compiled


def compile_filters() -> None:
    """Compiles the filters, which takes one to two seconds; later calls of `resize` use them.

    Without Numba, which has no wheel for some machines, Pillow goes on resizing.
    """
    global _compiled
    with contextlib.suppress(ImportError):
        _compiled = importlib.import_module("lift_jax.data.images.compiled")


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
