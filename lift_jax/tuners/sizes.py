"""Sizes that several tuners choose automatically."""

import math


def power_of_two(x: float) -> int:
    """Returns the largest power of two that is at most x, and 1 for smaller x."""
    return 2 ** max(0, math.floor(math.log2(x)))
