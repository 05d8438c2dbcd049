"""Calibration of probabilities: one temperature, and how reliable the answers are before and after.

Temperature scaling (Guo et al., ICML 2017) divides all logits by one scalar T, the one with the
least negative log-likelihood on the validation images. It changes no answer, because the order of
the classes stays. Reliability compares the confidence of answers with their accuracy, in bins.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import scipy  # loads its slow submodules at their first use
from jaxtyping import Bool, Float, Int

from lift_jax.evaluation import metrics

BINS = 15  # of equal width, (lo, hi]; those of metrics.json are ten
LOWEST, HIGHEST = 0.05, 20.0  # temperatures that are tried
NUMBERS = 2**22  # numbers of a block of rows (`by_rows`), in float64


class Temperature(NamedTuple):
    """A temperature.

    Attributes:
        value: T, by which logits are divided.
        at_bound: "lowest" or "highest" if the best T may lie beyond the range that is tried; else
            "".
    """

    value: float
    at_bound: str = ""

    @property
    def applied(self) -> float:
        """Returns T for new images: 1 at the lowest bound, otherwise `value`.

        At the lowest bound nearly every answer is right. Such images do not determine T, and that
        bound would call every answer certain.
        """
        return 1.0 if self.at_bound == "lowest" else self.value


def fit_temperature(logits: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"]) -> Temperature:
    """Returns the temperature with the least negative log-likelihood of softmax(logits / T).

    The likelihood is convex in 1 / T, so its one minimum is where the derivative is 0, which
    Brent's method finds between `LOWEST` and `HIGHEST`. If T makes no difference it is 1.
    """

    def slope(temperature: float) -> float:
        """Returns the derivative by 1 / T: the mean expected logit minus that of the label."""

        def of_rows(z: np.ndarray, labels: np.ndarray) -> np.ndarray:
            shares = scipy.special.softmax(z / temperature, axis=1)
            return (shares * z).sum(axis=1) - z[_each(labels), labels]

        return float(by_rows(of_rows, logits, labels).mean())

    if not len(labels):
        return Temperature(1.0)
    at_lowest, at_highest = slope(LOWEST), slope(HIGHEST)
    if at_lowest == at_highest == 0:
        return Temperature(1.0)
    if at_lowest <= 0:  # still falling where 1 / T is largest
        return Temperature(LOWEST, "lowest")
    if at_highest >= 0:
        return Temperature(HIGHEST, "highest")
    from scipy.optimize import root_scalar  # here, because the import takes long

    bracket = math.log(LOWEST), math.log(HIGHEST)
    found = root_scalar(
        lambda log_t: slope(math.exp(log_t)), bracket=bracket, method="brentq", xtol=1e-12
    )
    return Temperature(math.exp(found.root))


def log_likelihood_loss(
    logits: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"], temperature: float = 1.0
) -> float:
    """Returns the mean negative log-likelihood of softmax(logits / T)."""

    def of_rows(z: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return -scipy.special.log_softmax(z / temperature, axis=1)[_each(labels), labels]

    return float(by_rows(of_rows, logits, labels).mean())


def confidence(logits: Float[np.ndarray, "n c"], temperature: float) -> Float[np.ndarray, " n"]:
    """Returns the probability of the likeliest class of each image."""
    return by_rows(lambda z: scipy.special.softmax(z / temperature, axis=1).max(axis=1), logits)


def reliability(
    confidences: Float[np.ndarray, " n"], right: Bool[np.ndarray, " n"]
) -> dict[str, Any]:
    """Returns the expected calibration error, and the bins that it is the mean of.

    Percentages: `ece`, and `confidence` and `accuracy` of each bin, the mean over its images, None
    where it has none. `count` is the number of its images. Without any image `ece` is None.
    """
    place = np.clip(np.ceil(confidences * BINS).astype(int) - 1, 0, BINS - 1)
    count = np.bincount(place, minlength=BINS)
    sums = [np.bincount(place, weights=each, minlength=BINS) for each in (confidences, right)]
    gap = np.abs(sums[0] - sums[1]).sum()

    def means(total: np.ndarray) -> list[float | None]:
        return [100 * float(t / n) if n else None for t, n in zip(total, count, strict=True)]

    return {
        "ece": 100 * float(gap / len(right)) if len(right) else None,
        "count": count.tolist(),
        "confidence": means(sums[0]),
        "accuracy": means(sums[1]),
    }


def reliability_by_group(
    logits: Float[np.ndarray, "n c"],
    labels: Int[np.ndarray, " n"],
    temperature: float,
    group_counts: Int[np.ndarray, " c"],
) -> dict[str, dict[str, Any]]:
    """Returns the reliability of all answers, and of those to images of many, medium, few.

    An image belongs to the group of its true class, as in `metrics.summarise`.
    """
    sure, right = confidence(logits, temperature), logits.argmax(axis=1) == labels
    members: Mapping[str, np.ndarray] = metrics.groups(group_counts)
    of_group = {name: classes[labels] for name, classes in members.items()}
    rows = {"overall": np.ones(len(labels), bool)} | of_group
    return {name: reliability(sure[chosen], right[chosen]) for name, chosen in rows.items()}


def by_rows(work: Callable[..., np.ndarray], *arrays: np.ndarray) -> np.ndarray:
    """Returns the joined results of `work` on blocks of rows, the first array in float64.

    So only a block at a time needs the memory of float64.
    """
    return np.concatenate([work(*parts) for parts in _parts(*arrays)])


def _parts(first: np.ndarray, *others: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    size = max(1, NUMBERS // max(1, first.shape[1]))
    for start in range(0, max(1, len(first)), size):
        rows = slice(start, start + size)
        yield first[rows].astype(np.float64), *(other[rows] for other in others)


def _each(labels: np.ndarray) -> np.ndarray:
    return np.arange(len(labels))
