"""Labels that are probably wrong, by confident learning (Northcutt et al., arXiv 1911.00068).

The label of an image is doubtful if another class has a probability that reaches the threshold of
that class and exceeds the probability of the label by `CLEAR` or more. The threshold of a class is
the mean probability of the class over the images with that label. The probabilities must come from
a classifier that has not seen the image's label.

For test images these are the run's own answers. The tuned classifier knows the labels of the
training images by heart, so each of these is judged by the labels of the `NEIGHBOURS` other
training images most like it before tuning. A neighbour has the weight exp(cosine / t), with the t
that makes the labels most likely. Nothing is drawn at random.

A class with fewer than `FEWEST` images has no reliable threshold: its images are not judged.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from lift_jax.evaluation.insight.neighbours import nearest

FEWEST = 3  # images of a class
CLEAR = 0.25
NEIGHBOURS = 20
TEMPERATURES = tuple(0.005 * 10 ** (i / 10) for i in range(21))  # up to 0.5
SURE = 0.9  # share of a probability that the neighbours give; the rest is equal for all classes
BLOCK = 4096  # images at a time


@dataclass(frozen=True)
class Doubts:
    """The doubtful labels, the most doubtful first.

    Attributes:
        places: of the images.
        likelier: the class that they probably are.
        given, other: the probabilities of the label and of that class.
        judged: images that were judged.
        unjudged: images of classes with too few images.
    """

    places: Int[np.ndarray, " m"]
    likelier: Int[np.ndarray, " m"]
    given: Float[np.ndarray, " m"]
    other: Float[np.ndarray, " m"]
    judged: int
    unjudged: int


def doubts(
    labels: Int[np.ndarray, " n"],
    label_probability: Float[np.ndarray, " n"],
    classes: Int[np.ndarray, "n k"],
    probabilities: Float[np.ndarray, "n k"],
) -> Doubts:
    """Returns the doubtful labels.

    Args:
        labels: of all images.
        label_probability: of the label of each.
        classes, probabilities: the likeliest classes of each image.
    """
    size = int(max(labels.max(initial=0), classes.max(initial=0))) + 1
    images = np.bincount(labels, minlength=size)
    sums = np.bincount(labels, label_probability.astype(np.float64), minlength=size)
    known = images >= FEWEST
    thresholds = np.where(known, sums / np.maximum(images, 1), np.inf)
    reached = (probabilities >= thresholds[classes]) & (classes != labels[:, None])
    best = np.where(reached, probabilities, -1.0).argmax(axis=1)
    rows = np.arange(len(labels))
    other = probabilities[rows, best]
    found = known[labels] & reached[rows, best] & (other - label_probability >= CLEAR)
    places = np.flatnonzero(found)
    places = places[np.argsort((label_probability - other)[places], kind="stable")]
    judged = int(known[labels].sum())
    return Doubts(
        places, classes[places, best[places]], label_probability[places], other[places],
        judged, len(labels) - judged,
    )  # fmt: skip


def by_neighbours(
    features: Float[np.ndarray, "n e"], labels: Int[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " n"], Int[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
    """Returns the arguments of `doubts` after the labels, by the neighbours of each image.

    The time grows with the square of n. Raises ValueError for fewer than two images.
    """
    if len(labels) < 2:
        raise ValueError("one image has no neighbours")
    places, cosines = without_itself(*nearest(features, features, NEIGHBOURS + 1))
    classes = labels[places]
    own = classes == labels[:, None]
    classes_there = len(np.unique(labels))
    nearest_first = cosines - cosines[:, :1]

    def weights(temperature: float) -> Float[np.ndarray, "n k"]:
        w = np.exp(nearest_first.astype(np.float64) / temperature)
        return w / w.sum(axis=1, keepdims=True)

    def likelihood(temperature: float) -> float:
        of_label = (weights(temperature) * own).sum(axis=1)
        # rounded, so that equal ones stay equal whatever the order of their sums
        return round(float(np.log(SURE * of_label + (1 - SURE) / classes_there).mean()), 9)

    w = weights(max(TEMPERATURES, key=likelihood))
    probabilities = np.zeros_like(w)
    for first in range(0, len(labels), BLOCK):
        part = slice(first, first + BLOCK)
        same = classes[part, :, None] == classes[part, None, :]
        probabilities[part] = (same * w[part, None, :]).sum(axis=2)
    return (w * own).sum(axis=1), classes, probabilities


def without_itself(
    places: Int[np.ndarray, "n k"], cosines: Float[np.ndarray, "n k"]
) -> tuple[Int[np.ndarray, "n j"], Float[np.ndarray, "n j"]]:
    """Returns neighbours without the image itself, or without the last if it is not among them."""
    own: Bool[np.ndarray, "n k"] = places == np.arange(len(places))[:, None]
    own[~own.any(axis=1), -1] = True
    shape = len(places), places.shape[1] - 1
    return places[~own].reshape(shape), cosines[~own].reshape(shape)
