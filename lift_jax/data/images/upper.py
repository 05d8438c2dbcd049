"""Decoding of the upper rows of a JPEG, for a crop that ends above its lower edge.

A baseline JPEG of one scan holds its rows in order, and libjpeg-turbo decodes as many as the head
states. So the height in the head is replaced. The bytes of the other rows are then left over.
"""

import re
from typing import Any

import numpy as np
import simplejpeg
from jaxtyping import UInt8

CONTEXT = 4  # rows below the last one that is needed: colours at half the height are smoothed
WORTH = 15 / 16  # share of the rows above which the other ones save less than this costs
LEFT_OVER = re.compile(r"Corrupt JPEG data: \d+ extraneous bytes before marker 0xd9")  # the end
BASELINE, SCAN = 0xC0, 0xDA  # markers of the head
# Markers that may stand before the scan: of tables and notes, but none of restarts.
OTHERS = (0xC4, 0xDB, *range(0xE0, 0xF0), 0xFE)


def decode(
    content: bytes, size: tuple[int, int], rows: int, kind: str, **options: Any
) -> UInt8[np.ndarray, "h w c"] | None:
    """Returns an image of `size` (height, width) of which only the first `rows` rows are set.

    Returns None if that would not pay, if the JPEG is of another sort, or if the decoder found any
    fault in what it read, which a decoder of all rows tells better.
    """
    height, width = size
    rows += CONTEXT
    if rows > WORTH * height or (place := _place_of_height(content)) is None:
        return None
    lower = content[:place] + rows.to_bytes(2, "big") + content[place + 2 :]
    pixels = np.empty((height, width, len(kind)), np.uint8)
    try:
        simplejpeg.decode_jpeg(lower, kind, buffer=pixels, **options)
    except ValueError as error:
        return pixels if LEFT_OVER.fullmatch(str(error)) else None
    return pixels


def _place_of_height(content: bytes) -> int | None:
    """Returns where the head holds the height; None unless it is baseline, with one plain scan."""
    place, found, colours = 2, None, 0
    while place + 9 < len(content) and content[place] == 0xFF:
        marker = content[place + 1]
        if marker == BASELINE:
            found, colours = place + 5, content[place + 9]
        elif marker == SCAN:
            return found if content[place + 4] == colours else None
        elif marker not in OTHERS:
            return None
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return None
