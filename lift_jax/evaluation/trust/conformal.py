"""Prediction sets that hold the true class as often as asked (split conformal prediction).

A score says how badly a class fits an image. Its quantile over the calibration images, which the
classifier was not trained on, is the threshold q: the set of a new image holds each class whose
score is at most q. The true class is then in the set for at least the asked share of images like
those of the calibration (Vovk et al., 2005; Sadinle et al., JASA 2019).

Rare classes are the first to get less than the asked share. Ding, Fermanian and Salmon
(arXiv 2507.06867) give two remedies for long tails:

- Score `pas`, prevalence-adjusted softmax. Score `softmax` is 1 - p, where p is the softmax. `pas`
  is 1 - p / prior, with p / prior normalised to sum 1 (in the paper it is not normalised) and the
  prior of the training images. With the losses `la`, `bs` and `lade` the softmax itself is p /
  prior, normalised (arXiv 2007.07314), and with the class weights of `cb` and `grw` approximately.
  So for these losses `softmax` is the adjusted score, and `pas` would adjust twice. For other
  losses `pas` is the adjusted score.
- Thresholds between those of each class (t = 1) and the one of all images (t = 0):
  q_c = t q_class + (1 - t) q_all. A class with too few images for a quantile of its own has
  q_class = 1, the largest score. The asked share 1 - a holds over all images at t = 0, and in each
  class at t = 1. In between at least 1 - 2a holds over all images, because an image that is missed
  there is missed at t = 0 or at t = 1; in practice it is about 1 - a.
"""

import math

import numpy as np
import scipy  # loads its slow submodules at their first use
from jaxtyping import ArrayLike, Float, Int

from lift_jax.data.prior import fill, log_prior
from lift_jax.evaluation.trust.calibration import by_rows

SCORES = ("softmax", "pas")
FULL = 1.0  # the largest score: every class is in the set
WEIGHT = 0.5  # t, as much from each class as from all images
BALANCED = ("la", "bs", "lade", "cb", "grw")  # losses whose softmax is free of the training prior


def default_score(loss: str) -> str:
    """Returns the score that adjusts for the prior, for a classifier trained with this loss."""
    return "softmax" if loss in BALANCED else "pas"


def class_scores(
    logits: Float[np.ndarray, "n c"], score: str, train_counts: ArrayLike
) -> Float[np.ndarray, "n c"]:
    """Returns the score of each class for each image, float32 in [0, 1].

    Kept scores are float32 too, so a later comparison with them gives the same. The temperature is
    not used: it is fitted to the calibration images, from which the scores must not learn.
    """
    shift = _shift(score, train_counts)

    def of_rows(z: np.ndarray) -> np.ndarray:
        return (-np.expm1(scipy.special.log_softmax(z - shift, axis=1))).astype(np.float32)

    return by_rows(of_rows, logits)


def true_scores(
    logits: Float[np.ndarray, "n c"],
    labels: Int[np.ndarray, " n"],
    score: str,
    train_counts: ArrayLike,
) -> Float[np.ndarray, " n"]:
    """Returns the score of the true class of each image (see `class_scores`)."""
    shift = _shift(score, train_counts)

    def of_rows(z: np.ndarray, labels: np.ndarray) -> np.ndarray:
        scores = scipy.special.log_softmax(z - shift, axis=1)[np.arange(len(labels)), labels]
        return (-np.expm1(scores)).astype(np.float32)

    return by_rows(of_rows, logits, labels)


def _shift(score: str, train_counts: ArrayLike) -> Float[np.ndarray, " c"] | float:
    """Returns what a score subtracts from the logits: the log prior for `pas`, otherwise 0."""
    return log_prior(fill(train_counts)) if score == "pas" else 0.0


def quantile(scores: Float[np.ndarray, " n"], coverage: float) -> float:
    """Returns the threshold for a coverage 1 - a: the ceil((n + 1) (1 - a))-th smallest score.

    If there are fewer scores than that it is `FULL`, so that every class is in the set.
    """
    place = rank(len(scores), coverage)
    return float(np.sort(scores)[place - 1]) if place <= len(scores) else FULL


def rank(n: int, coverage: float) -> int:
    """Returns ceil((n + 1) coverage), the place of the quantile among n sorted scores.

    The product is rounded first: 10 x 0.9 is 9, whatever is lost in the last bit.
    """
    return max(1, math.ceil(round((n + 1) * coverage, 9)))


def fewest(coverage: float) -> int:
    """Returns the smallest number of calibration images for which a coverage has a quantile."""
    return max(1, math.ceil(round(coverage / (1 - coverage), 9)))


def class_quantiles(
    scores: Float[np.ndarray, " n"],
    labels: Int[np.ndarray, " n"],
    classes: int,
    coverage: float,
) -> Float[np.ndarray, " c"]:
    """Returns the threshold of each class from the scores of its own images (see `quantile`)."""
    order = np.lexsort((scores, labels))
    ordered, counts = scores[order], np.bincount(labels, minlength=classes)
    starts = np.cumsum(counts) - counts
    places = np.array([rank(n, coverage) for n in counts.tolist()])
    found = np.full(classes, FULL)
    enough = places <= counts
    found[enough] = ordered[(starts + places - 1)[enough]]
    return found


def thresholds(
    scores: Float[np.ndarray, " n"],
    labels: Int[np.ndarray, " n"],
    classes: int,
    coverage: float,
    weight: float = WEIGHT,
) -> Float[np.ndarray, " c"]:
    """Returns the threshold of each class: `weight` x its own plus (1 - `weight`) x that of all."""
    own = class_quantiles(scores, labels, classes, coverage)
    return weight * own + (1 - weight) * quantile(scores, coverage)
