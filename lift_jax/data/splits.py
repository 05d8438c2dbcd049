"""The choice of images: a share of each class held out, a long tail, or large classes cut."""

from dataclasses import replace

import numpy as np
from jaxtyping import Int

from lift_jax.data.types import Dataset, Split
from lift_jax.errors import UserError

TEST, VAL, TAIL = 0, 1, 2  # part of the random seed, so that the draws are independent


def rows_by_class(labels: Int[np.ndarray, "n"]) -> dict[int, Int[np.ndarray, "m"]]:
    """Returns the indices of the images of each label that occurs, both in ascending order."""
    order = np.argsort(labels, kind="stable")
    present, starts = np.unique(labels[order], return_index=True)
    return dict(zip(present.tolist(), np.split(order, starts[1:]), strict=True))


def hold_out(split: Split, share: float, seed: int, draw: int = TEST) -> tuple[Split, Split]:
    """Holds out `share` of each class, rounded. Returns the kept split and the held-out one.

    A class of two or more images has at least one in each; a single image is kept. `draw` is one of
    TEST, VAL and TAIL.
    """
    kept, held = [], []
    for c, rows in rows_by_class(split.labels).items():
        count = min(len(rows) - 1, max(1, round(share * len(rows))))
        order = np.random.default_rng((seed, c, draw)).permutation(rows)
        held.append(order[:count])
        kept.append(order[count:])
    return split.take(np.sort(np.concatenate(kept))), split.take(np.sort(np.concatenate(held)))


def with_validation(data: Dataset, share: float, seed: int) -> Dataset:
    """Holds out `share` of the training images of each class for validation (see `hold_out`).

    Raises UserError if the data set has a validation split already, or if no class has two images.
    """
    if data.val is not None:
        raise UserError(
            f"data.val_share is {share}, but this data set has a validation split of its own "
            f"({len(data.val):,} images). Set data.val_share=0 to use that."
        )
    train, val = hold_out(data.train, share, seed, VAL)
    if not len(val):
        raise UserError(
            f"data.val_share is {share}, but every class has a single training image, so none can "
            "be held out. Add images, or set data.val_share=0."
        )
    return replace(data, train=train, val=val)


def long_tailed(data: Dataset, imbalance: float, seed: int) -> Dataset:
    """Cuts the training images to an exponential profile of ratio `imbalance` (IR).

    The classes are ranked from the largest to the smallest, classes of equal size by label, so that
    a balanced data set is cut in the order of its labels. With C classes, of which the largest has
    n images, the class of rank c keeps n * (1 / IR)^(c / (C - 1)) images, rounded, or all if it has
    fewer. The seed draws which. Validation and test images do not change.
    Raises UserError if the last class would be left without an image.
    """
    counts = data.counts
    if (last := counts.max() / imbalance) < 0.5:
        raise UserError(
            f"data.imbalance is {imbalance:g}, but the largest class has {counts.max():,} training "
            f"images: the last class would keep {last:.2g} of one. Expected at most "
            f"{2 * counts.max():,}."
        )
    order = np.argsort(-counts, kind="stable")
    rows, kept = rows_by_class(data.train.labels), []
    for rank, c in enumerate(order[: len(rows)].tolist()):
        count = max(1, round(long_tail_count(counts.max(), imbalance, rank, len(counts))))
        kept.append(np.random.default_rng((seed, c, TAIL)).permutation(rows[c])[:count])
    return replace(data, train=data.train.take(np.sort(np.concatenate(kept))))


def capped(split: Split, most: int, seed: int) -> Split:
    """Cuts every class to at most `most` images, which the seed draws; the order stays.

    One generator draws for all classes in turn, as LT-Soups does, also where a class keeps all.
    """
    draw = np.random.default_rng(seed)
    kept = [
        draw.choice(rows, min(most, len(rows)), replace=False)
        for rows in rows_by_class(split.labels).values()
    ]
    return split.take(np.sort(np.concatenate(kept)))


def long_tail_count(largest: float, imbalance: float, c: int, classes: int) -> float:
    """Returns n_c = n_0 * (1 / IR)^(c / (C - 1)) of the exponential profile, not rounded."""
    return largest * (1.0 / imbalance) ** (c / (classes - 1.0))
