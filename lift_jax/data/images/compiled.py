"""Pillow's resizing, compiled for this processor by Numba: the same bytes, over five times as fast.

Importing this module compiles it, which takes one to two seconds. Pixels are four bytes in one
uint32, of which the last is ignored, because so many of them fit a vector register. Pillow 13
resizes along one axis and then along the other, and rounds to bytes in between. Its weights are
whole numbers of 22 bits.
"""

import math

import numpy as np
from jaxtyping import Int32, UInt8, UInt32
from numba import njit, types

BITS = 22  # of a weight
HALF = 1 << (BITS - 1)
SHIFT, BLACK, WHITE = np.int32(BITS), np.int32(0), np.int32(255)  # in the type of the sums
TAPS = 4  # pixels that are weighted in one turn of the innermost loop
BAND = 64  # rows that lie side by side in that loop

# The innermost loops run along slices of one axis, because many of those over [y, x] stay scalar.

Pixels = UInt32[np.ndarray, "h w"]
Weights = tuple[Int32[np.ndarray, " n"], Int32[np.ndarray, "n k"]]

numbers, image = types.int32, types.Array(types.uint32, 2, "A")  # strided, or mirrored at x = y
starts_and_weights = types.Array(numbers, 1, "C"), types.Array(numbers, 2, "C")


def resize(
    pixels: UInt8[np.ndarray, "h w 4"], box: tuple[float, float, float, float],
    size: tuple[int, int], window: tuple[int, int, int, int], cubic: bool, mirror: bool = False,
) -> UInt8[np.ndarray, "y x 3"]:  # fmt: skip
    """Resizes a box of an image and returns a part of the result.

    Args:
        pixels: the image; the last axis must be contiguous.
        box: left, top, right and bottom in pixels, as Pillow's `resize(box=...)`.
        size: height and width of the whole result.
        window: left, top, right and bottom of the part.
        cubic: resize by the bicubic filter; False: by the bilinear one.
        mirror: exchange left and right of the part.
    """
    before = pixels.shape[:2]
    (rows, y), (columns, x) = (
        needed(
            *weights(before[axis], box[i], box[i + 2], size[axis], window[i], window[i + 2], cubic)
        )
        for axis, i in ((0, 1), (1, 0))
    )
    if mirror:
        x = np.ascontiguousarray(x[0][::-1]), np.ascontiguousarray(x[1][::-1])
    packed = pixels.view(np.uint32)[rows, columns, 0]
    if vertical_first(before, size):
        return unpacked(np.ascontiguousarray(along_rows(along_rows(packed.T, *y), *x).T))
    return unpacked(along_rows(along_rows(packed, *x), *y))


def vertical_first(before: tuple[int, int], after: tuple[int, int]) -> bool:
    """Returns True if Pillow resizes along the columns first, for sizes (height, width)."""
    lost = before[0] - after[0]
    return lost > 0 and lost > 2 * (before[1] - after[1])


def needed(
    starts: Int32[np.ndarray, " n"], found: Int32[np.ndarray, "n k"]
) -> tuple[slice, Weights]:
    """Returns the pixels that a filter reads, and the filter for these pixels alone."""
    return slice(starts[0], starts[-1] + found.shape[1]), (starts - starts[0], found)


whole, edge = types.int64, types.float32  # Pillow, too, holds a box in float32


@njit(
    [types.Tuple(starts_and_weights)(whole, edge, edge, whole, whole, whole, types.boolean)],
    nogil=True,
)
def weights(
    before: int, left: float, right: float, after: int, first: int, last: int, cubic: bool
) -> Weights:
    """Returns the filter for some pixels of a side that is resized.

    That is, for each of these pixels, the first pixel of the image that it reads, and the weights
    of the pixels from there on, with zeros behind them.

    Args:
        before: pixels of the side before.
        left: where the box begins.
        right: where the box ends.
        after: pixels to which the box is resized.
        first: the first of these that is asked for.
        last: the one behind the last that is asked for.
        cubic: Keys' cubic filter with a = -1/2; False: a triangle.
    """
    count = last - first
    scale = (right - left) / after
    widened = max(scale, 1.0)  # filters widen when they reduce
    support = (2.0 if cubic else 1.0) * widened
    starts, ends = np.empty(count, np.int32), np.empty(count, np.int32)
    for i in range(count):
        centre = left + (first + i + 0.5) * scale
        starts[i] = max(int(centre - support + 0.5), 0)
        ends[i] = min(int(centre + support + 0.5), before)
    most = (ends - starts).max()
    found = np.zeros((count, math.ceil(most / TAPS) * TAPS), np.int32)
    shares = np.empty(most)
    for i in range(count):
        centre = left + (first + i + 0.5) * scale
        start, total = starts[i], 0.0
        for j in range(ends[i] - start):
            x = abs((start + j - centre + 0.5) * (1 / widened))
            if not cubic:
                share = max(1.0 - x, 0.0)
            elif x < 1:
                share = (1.5 * x - 2.5) * x * x + 1
            elif x < 2:
                share = (((x - 5) * x + 8) * x - 4) * -0.5
            else:
                share = 0.0
            shares[j] = share
            total += share
        for j in range(ends[i] - start):
            weight = shares[j] / total * (1 << BITS)
            found[i, j] = int(weight + 0.5) if weight >= 0 else int(weight - 0.5)
    return starts, found


@njit([types.Array(types.uint32, 2, "C")(image, *starts_and_weights)], nogil=True)
def along_rows(
    pixels: Pixels, starts: Int32[np.ndarray, " n"], found: Int32[np.ndarray, "n k"]
) -> UInt32[np.ndarray, "n h"]:
    """Resizes an image along its rows; rows and columns of the result are exchanged.

    Exchanged, the pixels that are weighted alike lie side by side, where one instruction takes
    many of them.
    """
    height, width = pixels.shape
    count, most = found.shape
    result = np.empty((count, height), np.uint32)
    band = np.zeros((width + most, BAND), np.uint32)  # with zeros where weights of 0 read
    sums = np.empty((3, BAND), np.int32)
    for top in range(0, height, BAND):
        rows = min(BAND, height - top)
        part = pixels[top : top + rows]
        for x in range(width):
            line, column = band[x], part[:, x]
            for y in range(rows):
                line[y] = column[y]
        for i in range(count):
            sums[:] = HALF  # so that the shift below rounds
            for j in range(0, most, TAPS):
                a, b, c, d = found[i, j], found[i, j + 1], found[i, j + 2], found[i, j + 3]
                x = starts[i] + j
                for y in range(BAND):
                    p, q, r, s = band[x, y], band[x + 1, y], band[x + 2, y], band[x + 3, y]
                    for channel in range(3):
                        shift = np.uint32(8 * channel)
                        sums[channel, y] += (
                            np.int32((p >> shift) & 255) * a + np.int32((q >> shift) & 255) * b
                            + np.int32((r >> shift) & 255) * c + np.int32((s >> shift) & 255) * d
                        )  # fmt: skip
            line = result[i, top : top + rows]
            for y in range(rows):
                red = min(max(sums[0, y] >> SHIFT, BLACK), WHITE)
                green = min(max(sums[1, y] >> SHIFT, BLACK), WHITE)
                blue = min(max(sums[2, y] >> SHIFT, BLACK), WHITE)
                line[y] = np.uint32(red | green << np.int32(8) | blue << np.int32(16))
    return result


@njit([types.Array(types.uint8, 3, "C")(types.Array(types.uint32, 2, "C"))], nogil=True)
def unpacked(pixels: Pixels) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the three channels of each pixel as bytes."""
    height, width = pixels.shape
    result = np.empty((height, width, 3), np.uint8)
    four, three = pixels.reshape(-1).view(np.uint8), result.reshape(-1)
    for i in range(height * width):
        for channel in range(3):
            three[3 * i + channel] = four[4 * i + channel]
    return result
