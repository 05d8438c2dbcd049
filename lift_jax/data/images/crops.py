"""Boxes of training crops: minimalist data augmentation (LIFT+), and random resized crops."""

import math
from collections.abc import Callable

import numpy as np

from lift_jax.data.images.resize import Box

# Growth of the smallest crop, from `min_area` (0) to the whole image (1), at training time t in
# [0, 1] (LIFT+, minimalist data augmentation).
SCHEDULES: dict[str, Callable[[float], float]] = {
    "convex": lambda t: 1.0 - math.sqrt(1.0 - t * t),
    "linear": lambda t: t,
    "concave": lambda t: math.sqrt(1.0 - (1.0 - t) ** 2),
    "min": lambda t: 0.0,
    "max": lambda t: 1.0,
}

ASPECTS = (3 / 4, 4 / 3)  # width / height of a RandomResizedCrop


def min_scale(mda: str, epoch: int, epochs: int, min_area: float = 0.08) -> float:
    """Returns s_t, the smallest area share of an MDA crop in `epoch` (0-based) of `epochs`.

    A run of one epoch keeps t = 0.
    """
    t = epoch / (epochs - 1) if epochs > 1 else 0.0
    return min_area + (1.0 - min_area) * SCHEDULES[mda](t)


def area_bounds(height: int, width: int, low: float) -> tuple[float, float]:
    """Returns the area shares between which an MDA crop is drawn, for a smallest share `low`.

    A square inside the image covers at most q = short side / long side, so both bounds stop there.
    """
    q = min(height, width) ** 2 / (height * width)
    return min(low, q), min(1.0, q)


def crop_side(height: int, width: int, share: float) -> int:
    """Returns the side in pixels of the square that covers `share` of the image."""
    return max(1, min(round(math.sqrt(share * height * width)), height, width))


def mda_box(height: int, width: int, low: float, rng: np.random.Generator) -> Box:
    """Draws the one crop of minimalist data augmentation (LIFT+): square, anywhere in the image."""
    side = crop_side(height, width, rng.uniform(*area_bounds(height, width, low)))
    top = int(rng.integers(height - side + 1))
    left = int(rng.integers(width - side + 1))
    return left, top, left + side, top + side


def rrc_box(height: int, width: int, min_area: float, rng: np.random.Generator) -> Box:
    """Draws a RandomResizedCrop: area share in [min_area, 1], log-uniform aspect in [3/4, 4/3].

    After ten draws that do not fit, returns the largest centred box of an allowed aspect.
    """
    for _ in range(10):
        area = height * width * rng.uniform(min_area, 1.0)
        aspect = math.exp(rng.uniform(math.log(ASPECTS[0]), math.log(ASPECTS[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top = int(rng.integers(height - h + 1))
            left = int(rng.integers(width - w + 1))
            return left, top, left + w, top + h
    return central_box(height, width)


def central_box(height: int, width: int) -> Box:
    """Returns the largest centred box whose aspect lies in [3/4, 4/3]."""
    w, h = width, height
    if width / height < ASPECTS[0]:
        h = round(width / ASPECTS[0])
    elif width / height > ASPECTS[1]:
        w = round(height * ASPECTS[1])
    top, left = (height - h) // 2, (width - w) // 2
    return left, top, left + w, top + h
