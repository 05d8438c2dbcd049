"""Which images of a set are used: a share of every class held out, or a long tail cut from it."""

from dataclasses import replace

import numpy as np
from jaxtyping import Int

from lift_jax.data.types import Dataset, Split
from lift_jax.errors import UserError

TEST, VAL, TAIL = 0, 1, 2  # what is drawn, so that the draws of one seed are independent


def rows_by_class(labels: Int[np.ndarray, "n"]) -> dict[int, Int[np.ndarray, "m"]]:
    """Returns the rows of every label that occurs, both in ascending order."""
    order = np.argsort(labels, kind="stable")
    found, starts = np.unique(labels[order], return_index=True)
    return dict(zip(found.tolist(), np.split(order, starts[1:]), strict=True))


def hold_out(split: Split, share: float, seed: int, draw: int = TEST) -> tuple[Split, Split]:
    """Divides every class: `share` of it, rounded, is held out. Returns what is kept, and that.

    A class of two or more images has at least one on either side; a single image is kept.
    """
    kept, held = [], []
    for c, rows in rows_by_class(split.labels).items():
        out = min(len(rows) - 1, max(1, round(share * len(rows))))
        order = np.random.default_rng((seed, c, draw)).permutation(rows)
        held.append(order[:out])
        kept.append(order[out:])
    return split.take(np.sort(np.concatenate(kept))), split.take(np.sort(np.concatenate(held)))


def with_validation(data: Dataset, share: float, seed: int) -> Dataset:
    """Holds `share` of every class's training images out to validate on (see `hold_out`).

    Raises UserError where the set has a validation split of its own, or no class has two images.
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

    Classes are taken from the largest to the smallest, equals in the order of their labels, so that
    a balanced set is cut in the order of its labels. Of C classes, the largest with n images, the
    one in place c keeps n * (1 / IR)^(c / (C - 1)), rounded, or all that it has if they are fewer.
    The seed draws which. Validation and test images stay as they are.
    Raises UserError where the last class would be left without an image.
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
    for place, c in enumerate(order[: len(rows)].tolist()):
        many = max(1, round(kept_of(counts.max(), imbalance, place, len(counts))))
        kept.append(np.random.default_rng((seed, c, TAIL)).permutation(rows[c])[:many])
    return replace(data, train=data.train.take(np.sort(np.concatenate(kept))))


def kept_of(largest: float, imbalance: float, c: int, classes: int) -> float:
    """Returns n_c of the exponential profile, before rounding."""
    return largest * (1.0 / imbalance) ** (c / (classes - 1.0))
