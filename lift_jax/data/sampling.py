"""Draws of training images by class: balanced, or by the square roots of the class counts.

An epoch has as many draws as there are images. Each class gets its share of them, rounded up or
down, in an order drawn anew each epoch. The draws of a class go through a permutation of its images
before any of them comes again, also from one epoch to the next.
"""

import functools
import threading
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from lift_jax.data.prior import expected_draws

ORDER, CYCLE = 2, 3  # spawn keys, which keep these streams apart from others of the same seed
LOCK = threading.Lock()  # so that not every thread makes the same order


@dataclass(frozen=True, eq=False)
class ClassDraws:
    """The draws of a run: image and repeat of every slot, a function of (seed, epoch, place).

    Attributes:
        labels: of the training images.
        sampling: balanced or sqrt (`prior.expected_draws`).
        seed: of the run.
    """

    labels: Int[np.ndarray, " n"]
    sampling: str
    seed: int

    def epoch(self, epoch: int) -> Int[np.ndarray, "n 2"]:
        """Returns the image of each draw of an epoch, and how often it was drawn before in it."""
        with LOCK:
            return _epoch(self, epoch)

    @functools.cached_property
    def images(self) -> list[Int[np.ndarray, " n"]]:
        """Returns the indices of the images of each class, ascending."""
        ends = np.cumsum(np.bincount(self.labels))
        return np.split(np.argsort(self.labels, kind="stable"), ends[:-1])

    @functools.cached_property
    def shares(self) -> np.ndarray:
        """Returns the expected number of draws of each class in an epoch, float64[c]."""
        return np.asarray(expected_draws(np.bincount(self.labels), self.sampling), np.float64)

    def counts(self, epoch: int) -> tuple[Int[np.ndarray, " c"], np.random.Generator]:
        """Returns how many draws each class has in an epoch, and the generator that goes on.

        It is the share of the class, rounded down or up. Systematic sampling chooses which are
        rounded up: the fractions of the shares lie side by side on a line, and points at distance
        1, from a random start on, fall on those classes. So the mean over epochs is the share.
        """
        sequence = np.random.SeedSequence((self.seed, epoch), spawn_key=(ORDER,))
        rng = np.random.default_rng(sequence)
        counts = np.floor(self.shares).astype(np.int64)
        left = len(self.labels) - counts.sum()
        ends, first = np.cumsum(self.shares - counts), rng.uniform(0, 1 - 1e-9)
        if left:
            ends = ends / ends[-1] * left  # ends at a whole number in spite of rounding
            hit = np.searchsorted(ends, first + np.arange(left), side="right")
            counts += np.bincount(hit, minlength=len(counts))
        return counts, rng

    def drawn(self, c: int, begin: int, count: int) -> Int[np.ndarray, " m"]:
        """Returns the images of `count` draws of class `c`, after `begin` earlier draws of it."""
        own = self.images[c]
        first, last = begin // len(own), (begin + count - 1) // len(own)
        cycles = []
        for cycle in range(first, last + 1):
            sequence = np.random.SeedSequence((self.seed, c, cycle), spawn_key=(CYCLE,))
            cycles.append(np.random.default_rng(sequence).permutation(own))
        skipped = begin - first * len(own)
        return np.concatenate(cycles)[skipped : skipped + count]


@functools.lru_cache(maxsize=4)
def _epoch(draws: ClassDraws, epoch: int) -> Int[np.ndarray, "n 2"]:
    earlier = sum(draws.counts(e)[0] for e in range(epoch)) + np.zeros_like(draws.shares, np.int64)
    counts, rng = draws.counts(epoch)
    images = np.concatenate(
        [draws.drawn(c, int(earlier[c]), int(counts[c])) for c in np.flatnonzero(counts).tolist()]
    )
    classes = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    order = np.empty(len(images), np.int64)
    order[np.argsort(classes, kind="stable")] = images  # the k-th place of a class: its k-th draw
    return np.stack([order, _repeats(order)], axis=1)


def _repeats(values: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Returns for each place how often its value stands before it."""
    by_value = np.argsort(values, kind="stable")
    ordered = values[by_value]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    sizes = np.diff(np.r_[starts, len(values)])
    repeats = np.empty(len(values), np.int64)
    repeats[by_value] = np.arange(len(values)) - np.repeat(starts, sizes)
    return repeats
