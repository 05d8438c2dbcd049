"""Post-hoc logit adjustment: logits less tau log pi (arXiv 2007.07314, section 4.1).

A classifier that learned from the training images has learned their prior pi as well; what is taken
off here is what the loss `la` keeps from being learned. So a model of `la` has little left to take
off, and a tau near 0 is to be expected of it; of `ce` one near 1.

How much of it is right is chosen on the validation split, never on the test split: the tau with the
best mean accuracy over the classes, of equals the smallest.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import ArrayLike, Float

from lift_jax.data.prior import fill, log_prior
from lift_jax.evaluation import metrics

TAUS = tuple(i / 10 for i in range(31))  # what is tried: 0 (no adjustment) to 3


def shifts(taus: Sequence[float], train_counts: ArrayLike) -> Float[np.ndarray, "t c"]:
    """Returns what is taken off the logits for each tau: tau log pi_c.

    Classes without training images count as the smallest, as in the losses.
    """
    prior = log_prior(fill(train_counts))
    return (np.asarray(taus)[:, None] * prior).astype(np.float32)


def part(counts: metrics.Counts, i: int) -> metrics.Counts:
    """Returns the counts of the i-th shift (`steps.make_count` with shifts)."""
    return {key: value[i] for key, value in counts.items()}


def choose(counts: metrics.Counts) -> tuple[float, dict[str, float]]:
    """Returns the tau of `TAUS` that is best on the validation split, and what each of them gives.

    Args:
        counts: of the validation split, the first axis as long as `TAUS`.

    Returns:
        The tau, and by tau the mean accuracy of the classes with a validation image, in percent.
    """
    accuracy = (metrics.class_accuracy(part(counts, i)) for i in range(len(TAUS)))
    # rounded to what does not depend on the order of a sum, so that equals are equal
    means = {tau: round(float(np.nanmean(a)), 9) for tau, a in zip(TAUS, accuracy, strict=True)}
    best = max(means, key=lambda tau: means[tau])  # the first of the best
    return best, {str(tau): mean for tau, mean in means.items()}
