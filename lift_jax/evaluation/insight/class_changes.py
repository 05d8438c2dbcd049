"""The accuracies of classes by their numbers of training images, and between two results."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True)
class Band:
    """The classes with a number of training images from `low` to `high`.

    Attributes:
        low, high: both included; `high` is less than twice `low`.
        classes: number of classes with a test image.
        mean: mean of their accuracies.
        images: geometric mean of their numbers of training images.
    """

    low: int
    high: int
    classes: int
    mean: float
    images: float


def bands(counts: Int[np.ndarray, " c"], accuracy: Float[np.ndarray, " c"]) -> list[Band]:
    """Returns the mean accuracies of classes with 1, 2 to 3, 4 to 7, ... training images.

    Classes without training images or without test images (NaN) are left out, and so are bands
    without a class.
    """
    found, low = [], 1
    measured = ~np.isnan(accuracy)
    while low <= counts.max(initial=0):
        members = (counts >= low) & (counts < 2 * low) & measured
        if members.any():
            mean = float(accuracy[members].mean())
            images = float(np.exp(np.log(counts[members]).mean()))
            found.append(Band(low, 2 * low - 1, int(members.sum()), mean, images))
        low *= 2
    return found


def changes(
    before: Float[np.ndarray, " c"], after: Float[np.ndarray, " c"], most: int
) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"]]:
    """Returns the classes that gain most and those that lose most, at most `most` of each.

    The largest change comes first, and the smaller class number among equals. A class that either
    result does not measure (NaN) is left out.
    """
    # rounded, so that what is equal but for the last bits counts as equal
    change = np.nan_to_num(after - before).round(9)
    gains, losses = (np.argsort(sign * change, kind="stable") for sign in (-1, 1))
    return gains[change[gains] > 0][:most], losses[change[losses] < 0][:most]
