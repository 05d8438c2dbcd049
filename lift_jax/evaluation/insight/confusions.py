"""The confusions of a test: pairs of classes that are taken for each other."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int


@dataclass(frozen=True)
class Pair:
    """Two classes that are confused.

    Attributes:
        first, second: the classes; more of `first` are taken for `second` than the other way round.
        there, back: images of `first` answered `second`, and of `second` answered `first`.
        first_images, second_images: all images of each class.
    """

    first: int
    second: int
    there: int
    back: int
    first_images: int
    second_images: int


def pairs(labels: Int[np.ndarray, " n"], answered: Int[np.ndarray, " n"], most: int) -> list[Pair]:
    """Returns at most `most` pairs of classes, those with the most confused images first.

    Both directions of a pair count together. Among equal pairs, the one whose confused images are a
    larger share of its classes comes first, and then the one with the smaller class numbers.
    """
    labels, answered = labels.astype(np.int64), answered.astype(np.int64)
    wrong = labels != answered
    size = int(max(labels.max(initial=0), answered.max(initial=0))) + 1
    images = np.bincount(labels, minlength=size)
    codes, counts = np.unique(labels[wrong] * size + answered[wrong], return_counts=True)
    found = dict(zip(codes.tolist(), counts.tolist(), strict=True))
    every = []
    for a, b in {(min(divmod(c, size)), max(divmod(c, size))) for c in found}:
        there, back = found.get(a * size + b, 0), found.get(b * size + a, 0)
        first, second = (a, b) if there >= back else (b, a)
        numbers = (max(there, back), min(there, back), int(images[first]), int(images[second]))
        every.append(Pair(first, second, *numbers))

    def rank(pair: Pair) -> tuple[float, ...]:
        share = (pair.there + pair.back) / (pair.first_images + pair.second_images)
        return -(pair.there + pair.back), -share, pair.first, pair.second

    return sorted(every, key=rank)[:most]
