"""The order of examples, a pure function of (seed, epoch, example index).

A run is a line of numbered slots, `steps * batch` for each epoch. A slot names an epoch and an
example, or padding at the end of an epoch; with class sampling also how often the epoch has had
that example before. Step s takes the slots [s * batch, (s + 1) * batch), and
process p of P takes every P-th of them from the p-th on. So a run can start at any step without
reading earlier ones, and its global batches do not depend on the number of processes, workers and
threads.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from lift_jax.data.sampling import ClassDraws

PADDING = -1
Slot = tuple[int, int, int]  # epoch, example index or PADDING, earlier draws in the same epoch


def steps_per_epoch(n: int, batch: int) -> int:
    """Returns how many batches an epoch of n examples takes; the last may be partial."""
    return math.ceil(n / batch)


@functools.lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, n: int) -> Int[np.ndarray, "n"]:
    # the spawn key keeps this stream apart from the draws of the examples
    sequence = np.random.SeedSequence((seed, epoch), spawn_key=(0,))
    return np.random.default_rng(sequence).permutation(n)


@dataclass(frozen=True)
class Slots:
    """The slots of a run by number; examples come in order if seed is None."""

    n: int
    batch: int
    epochs: int
    seed: int | None
    draws: ClassDraws | None = None

    def __len__(self) -> int:
        return self.epochs * steps_per_epoch(self.n, self.batch) * self.batch

    def __getitem__(self, index: int) -> Slot:
        epoch, place = divmod(index, steps_per_epoch(self.n, self.batch) * self.batch)
        if place >= self.n:
            return epoch, PADDING, 0
        if self.seed is None:
            return epoch, place, 0
        if self.draws is not None:
            image, repeat = self.draws.epoch(epoch)[place].tolist()
            return epoch, image, repeat
        return epoch, int(epoch_order(self.seed, epoch, self.n)[place]), 0
