"""Batches of a split, read ahead: for training in a drawn order, for tests in that of the split."""

import numpy as np

from lift_jax.data.batches.ahead import Batches, read_ahead
from lift_jax.data.batches.order import PADDING, Slots
from lift_jax.data.batches.rows import EvalExample, TrainExample, dtype_of, shape_of
from lift_jax.data.images.views import TrainTransform, View
from lift_jax.data.sampling import ClassDraws
from lift_jax.data.types import Split


def train_batches(
    split: Split,
    transform: TrainTransform,
    *,
    seed: int,
    epochs: int,
    batch: int,
    start_step: int = 0,
    process: int = 0,
    processes: int = 1,
    workers: int = 0,
    sampling: str = "natural",
) -> Batches:
    """Yields this process's share of every training batch from `start_step` (0-based) on.

    With b = batch // processes, a batch holds `image` u8[b r r 3], `label` i32[b] and `mask`
    bool[b]. The last batch of an epoch is padded with zeros where `mask` is False, so that shapes
    never change. Images smaller than the view stay whole, u8[b h w 3], beside `cut` i32[b 2 6] (see
    `images.on_device`). The iterator reads ahead in threads, or in `workers` processes (-1: as many
    as the machine can use, see `batches.ahead`); its `close()` stops them.

    An epoch holds every image once with sampling "natural", and otherwise as many draws
    (`data.sampling`), each with a view of its own.

    Raises UserError if `batch` does not divide by `processes`, and in `next` if an image cannot be
    read.
    """
    draws = None if sampling == "natural" else ClassDraws(split.labels, sampling, seed)
    slots = Slots(len(split), batch, epochs, seed, draws)
    draw = TrainExample(split, transform, seed)
    return read_ahead(slots, draw, start_step, process, processes, workers)


def eval_batches(
    split: Split,
    transform: View,
    *,
    seed: int = 0,
    batch: int,
    process: int = 0,
    processes: int = 1,
    workers: int = 0,
) -> Batches:
    """Yields this process's share of every batch of a split, once and in order.

    Batches are like those of `train_batches`; for five crops `image` is u8[b 5 r r 3]. They also
    hold `row` i32[b], the index in the split, -1 for padding. Every process gets the same number of
    batches. Random crops depend only on `seed` and the index of the example.
    """
    slots = Slots(len(split), batch, epochs=1, seed=None)
    return read_ahead(slots, EvalExample(split, transform, seed), 0, process, processes, workers)


def eval_padding(split: Split, transform: View) -> dict[str, np.ndarray]:
    """Returns a padded row of the batches of `eval_batches`, which shows their keys and shapes."""
    image = np.empty(shape_of(split, transform), dtype_of(transform))
    row = {"image": image} | EvalExample(split, transform, 0).row(PADDING, image)
    return {key: np.asarray(value) for key, value in row.items() if key != "bad"}
