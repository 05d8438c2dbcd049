"""Losses for long-tailed classes, each one small function of the training counts.

A loss is a ratio of two sums over the rows of a batch; its denominator depends on no parameter.
So a batch cut into micro-batches has the same loss and gradient as the whole: add the numerators,
add the denominators, divide once. `lade` alone needs all logits of a batch at once.

Classes without a training image would have the prior 0 and the logit adjustment minus infinity;
they count as the smallest positive count instead.
"""

import numpy as np
from jaxtyping import ArrayLike

from lift_jax.errors import UserError


def fill(counts: ArrayLike) -> np.ndarray:
    """Returns the counts as float64[c], classes without images at the smallest positive count."""
    try:
        array = np.asarray(counts, np.float64)
    except (TypeError, ValueError) as e:
        raise UserError(f"The training counts must be one number a class: {e}.") from e
    if array.ndim != 1 or not np.isfinite(array).all() or (array < 0).any() or not array.any():
        raise UserError(
            "The training counts must be one number a class, none negative and not all 0; "
            f"found {np.array2string(array, threshold=20)}."
        )
    return np.where(array > 0, array, array[array > 0].min())


def log_prior(counts: np.ndarray) -> np.ndarray:
    """log pi, pi_c = n_c / sum n."""
    return np.log(counts / counts.sum())
