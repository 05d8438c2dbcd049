"""Post-hoc logit adjustment: logits minus tau log pi (arXiv 2007.07314, section 4.1).

A classifier also learns the prior pi of the training images. Post-hoc adjustment subtracts this
prior from the logits. The loss `la` keeps the classifier from learning it. So the best tau should
be near 0 after training with `la`, and near 1 after `ce`.

The strength tau is chosen on the validation split, never on the test split. It is the tau with the
best mean accuracy over the classes, and the smallest among equals.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import ArrayLike, Float

from lift_jax.data.prior import fill, log_prior
from lift_jax.evaluation import metrics

TAUS = tuple(i / 10 for i in range(31))  # strengths to try: 0 (no adjustment) to 3


def shifts(taus: Sequence[float], train_counts: ArrayLike) -> Float[np.ndarray, "t c"]:
    """Returns tau log pi_c, which is subtracted from the logits, for each tau and class.

    A class without training images gets the smallest positive count, as in the losses.
    """
    prior = log_prior(fill(train_counts))
    return (np.asarray(taus)[:, None] * prior).astype(np.float32)


def select(counts: metrics.Counts, i: int) -> metrics.Counts:
    """Returns the counts of the i-th shift, from the result of `forward.make_count` with shifts."""
    return {key: value[i] for key, value in counts.items()}


def choose(counts: metrics.Counts) -> tuple[float, dict[str, float]]:
    """Returns the best tau of `TAUS`, and the mean accuracy of each tau.

    `counts` are those of the validation split, with a first axis as long as `TAUS`. The mean
    accuracies are in percent, over the classes with a validation image.
    """
    accuracy = (metrics.class_accuracy(select(counts, i)) for i in range(len(TAUS)))
    # Rounded, so that equal means stay equal whatever the order of their sums.
    means = {tau: round(float(np.nanmean(a)), 9) for tau, a in zip(TAUS, accuracy, strict=True)}
    best = max(means, key=lambda tau: means[tau])  # the first of the best
    return best, {str(tau): mean for tau, mean in means.items()}
