"""Images of no known class: four scores of how well an image fits, and the threshold below which an
image counts as unknown.

    max_logit        the largest logit (Vaze et al., ICLR 2022)
    energy           log-sum-exp of the logits (Liu et al., NeurIPS 2020)
    max_probability  the largest probability, calibrated (Hendrycks and Gimpel, ICLR 2017)
    cosine           the largest cosine between the feature and a class mean of the validation
                     images; an image is left out of the mean of its own class

A validation split holds no unknown image, so the score is chosen with classes that are treated as
unknown. The classes are divided into `FOLDS` parts. Each part in turn is held out: the logits and
means of its classes are removed, its images count as unknown and all others as known. The chosen
score has the largest area under the ROC curve, on average over the parts; among equal ones it is
the first of the list. All areas are too large, because the network was trained on the held-out
classes, but the comparison between scores stays fair. The test split is not used.

The threshold keeps the asked share of the correctly classified validation images.
"""

import math

import numpy as np
import scipy  # loads its slow submodules at their first use
from jaxtyping import Bool, Float, Int

from lift_jax.evaluation.trust.calibration import by_rows

SCORES = ("max_logit", "energy", "max_probability", "cosine")
FOLDS = 5
FEWEST = 3  # classes: two are left when one is held out
MOST_MEANS = 10**6  # numbers in all class means, above which `cosine` is not tried


def scores_of_logits(
    logits: Float[np.ndarray, "n c"],
    score: str,
    temperature: float,
    known: Bool[np.ndarray, " c"] | None = None,
) -> Float[np.ndarray, " n"]:
    """Returns a score of each image by its logits, in float32 as scores are kept.

    `known` are the classes that count; None for all.
    """

    def of_rows(z: np.ndarray) -> np.ndarray:
        z = z if known is None else z[:, known]
        if score == "max_logit":
            return z.max(axis=1)
        if score == "energy":
            return np.asarray(scipy.special.logsumexp(z, axis=1))
        return scipy.special.softmax(z / temperature, axis=1).max(axis=1)

    return by_rows(of_rows, logits).astype(np.float32)


def class_means(
    features: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"], classes: int
) -> Float[np.ndarray, "c d"]:
    """Returns the mean direction of each class in unit length, in float16; 0 without an image."""
    return _unit(_sums(_unit(features), labels, classes)).astype(np.float16)


def cosines(
    features: Float[np.ndarray, "n d"], means: Float[np.ndarray, "c d"]
) -> Float[np.ndarray, " n"]:
    """Returns the largest cosine between each feature and a class mean, in float32."""
    there = np.any(means != 0, axis=1)
    kept = means[there].astype(np.float64)
    return by_rows(lambda x: (_unit(x) @ kept.T).max(axis=1), features).astype(np.float32)


def cosines_left_out(
    features: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    classes: int,
    known: Bool[np.ndarray, " c"],
) -> Float[np.ndarray, " n"]:
    """Returns the largest cosine to the mean of a `known` class, each image left out of its own.

    An image that is alone in its class is compared with the other classes.
    """
    sums = _sums(_unit(features), labels, classes)
    counts = np.bincount(labels, minlength=classes)
    means = _unit(sums)

    def of_rows(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
        x, rows = _unit(x), np.arange(len(labels))
        found = x @ means.T
        found[:, ~known | (counts == 0)] = -np.inf
        own = (x * _unit(sums[labels] - x)).sum(axis=1)
        found[rows, labels] = np.where(known[labels] & (counts[labels] > 1), own, -np.inf)
        return found.max(axis=1)

    return by_rows(of_rows, features, labels).astype(np.float32)


def auroc(known: Float[np.ndarray, " n"], unknown: Float[np.ndarray, " m"]) -> float:
    """Returns the share of pairs in which the known image has the larger score; equal ones half."""
    from scipy.stats import rankdata  # here, because the import takes long

    ranks = rankdata(np.concatenate([known, unknown]))[: len(known)]
    return float((ranks.sum() - len(known) * (len(known) + 1) / 2) / (len(known) * len(unknown)))


def choose_score(
    logits: Float[np.ndarray, "n c"],
    features: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    temperature: float,
) -> tuple[str, dict[str, float]]:
    """Returns the score that separates held-out classes best, and the area of each score tried.

    With fewer than `FEWEST` classes among the labels none is tried, and `max_logit` is taken.
    """
    present = np.unique(labels)
    if len(present) < FEWEST:
        return SCORES[0], {}
    parts = [present[i::FOLDS] for i in range(min(FOLDS, len(present)))]
    areas: dict[str, list[float]] = {score: [] for score in SCORES}
    classes = logits.shape[1]
    for part in parts:
        known = np.ones(classes, bool)
        known[part] = False
        inside = known[labels]
        for score in SCORES[:3]:
            found = scores_of_logits(logits, score, temperature, known)
            areas[score].append(auroc(found[inside], found[~inside]))
        if classes * features.shape[1] <= MOST_MEANS:
            found = cosines_left_out(features, labels, classes, known)
            areas["cosine"].append(auroc(found[inside], found[~inside]))
    # rounded, so that what is equal but for the last bits counts as equal
    means = {score: round(float(np.mean(each)), 6) for score, each in areas.items() if each}
    return max(means, key=lambda score: means[score]), means


def threshold(right_scores: Float[np.ndarray, " n"], keep: float) -> float:
    """Returns the largest threshold at or above which at least a share `keep` of the scores lies.

    Without any score it is -inf: no image is unknown.
    """
    n = len(right_scores)
    if not n:
        return -math.inf
    dropped = min(n - 1, math.floor(round((1 - keep) * n, 9)))
    return float(np.sort(right_scores)[dropped])


def _sums(units: np.ndarray, labels: np.ndarray, classes: int) -> Float[np.ndarray, "c d"]:
    found = np.zeros((classes, units.shape[1]))
    np.add.at(found, labels, units)
    return found


def _unit(rows: np.ndarray) -> np.ndarray:
    """Returns rows in float64 with length 1; a row of zeros stays."""
    rows = rows.astype(np.float64)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 1e-12)
