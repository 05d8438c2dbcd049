"""The class prior of the training images, from which losses and tests adjust logits.

A loss needs the prior of the images as training draws them (`expected_draws`).

A class without a training image would have the prior 0 and the logit adjustment minus infinity. It
counts as having the smallest positive count instead.
"""

import numpy as np
from jaxtyping import ArrayLike

from lift_jax.errors import UserError


def fill(counts: ArrayLike) -> np.ndarray:
    """Returns the counts as float64[c], with each 0 replaced by the smallest positive count.

    Raises UserError unless `counts` is one finite number a class, none negative and not all 0.
    """
    try:
        array = np.asarray(counts, np.float64)
    except (TypeError, ValueError) as e:
        raise UserError(f"The training counts must be one number for each class: {e}.") from e
    if array.ndim != 1 or not np.isfinite(array).all() or (array < 0).any() or not array.any():
        raise UserError(
            "The training counts must be one number for each class, none negative and not all 0; "
            f"found {np.array2string(array, threshold=20)}."
        )
    return np.where(array > 0, array, array[array > 0].min())


def expected_draws(counts: ArrayLike, sampling: str) -> np.ndarray:
    """Returns how often an epoch draws an image of each class on average, [c].

    Args:
        counts: number of training images of each class. A class without any is never drawn.
        sampling: natural (the counts themselves), balanced (all classes alike) or sqrt (in
            proportion to the square roots of the counts).
    """
    counts = np.asarray(counts)
    if sampling == "natural":
        return counts
    weights = np.sqrt(counts) if sampling == "sqrt" else (counts > 0).astype(np.float64)
    return counts.sum() * weights / weights.sum()


def log_prior(counts: np.ndarray) -> np.ndarray:
    """Returns log pi as float64[c], where pi_c = n_c / sum(n) is the prior of class c."""
    return np.log(counts / counts.sum())
