"""The consistency of classes between training and test images (LIFT, section 3).

Heavy fine-tuning draws the few training images of a tail class together. The test images of that
class stay where they are, so the classifier is wrong about them. Two numbers show this by cosines
of features: the distance of training and of test images to the mean of their class, and how
similar the means of different classes are.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lift_jax.evaluation.insight.neighbours import unit

LEFT_OUT = 20  # means with which a test image is compared
LARGEST_MAP = 256  # rows of a map of similarities


@dataclass(frozen=True)
class Consistency:
    """The distances and similarities of all classes, in one state of a model.

    Attributes:
        train: mean distance of the training images of each class to its mean, NaN if unknown.
        test: the same of its test images.
        similarity: mean cosine of a class's mean with those of the other classes, NaN without.
        means: mean feature of the training images of each class, at unit length; 0 without images.
    """

    train: Float[np.ndarray, " c"]
    test: Float[np.ndarray, " c"]
    similarity: Float[np.ndarray, " c"]
    means: Float[np.ndarray, "c e"]


def measure(
    train: Float[np.ndarray, "n e"],
    test: Float[np.ndarray, "m e"],
    labels: Int[np.ndarray, " n"],
    test_labels: Int[np.ndarray, " m"],
    classes: int,
) -> Consistency:
    """Returns distances and similarities of features of training and test images.

    A distance is 1 minus the cosine. Each image is compared with the mean of all but one of the
    training images of its class, and never with itself: a training image with the mean of the
    others, a test image with each mean that lacks one of them (`LEFT_OUT` of these at most). So if
    training and test images of a class are alike, their distances are equal on average, however few
    images there are. A class with one training image, or without a test image, has no distances.
    """
    known = np.full((2, classes), np.nan)
    means = np.zeros((classes, train.shape[1]), np.float32)
    for c, own, other in _by_class(labels, test_labels, classes):
        x = unit(train[own])
        total = x.sum(axis=0)
        means[c] = unit(total)
        if len(x) >= 2 and len(other):
            left = np.unique(np.linspace(0, len(x) - 1, LEFT_OUT).round().astype(int))
            known[0, c] = 1 - np.einsum("ne,ne->n", x, unit(total - x)).mean()
            known[1, c] = 1 - (unit(test[other]) @ unit(total - x[left]).T).mean()
    return Consistency(known[0], known[1], _similarity(means), means)


def _by_class(
    labels: Int[np.ndarray, " n"], test_labels: Int[np.ndarray, " m"], classes: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yields each class with the indices of its training and of its test images."""
    parts = []
    for each in (labels, test_labels):
        order = np.argsort(each, kind="stable")
        parts.append(np.split(order, np.searchsorted(each[order], np.arange(1, classes))))
    return zip(range(classes), *parts, strict=True)


def _similarity(means: Float[np.ndarray, "c e"]) -> Float[np.ndarray, " c"]:
    """Returns the mean cosine of each mean with the others; NaN for a class without a mean."""
    there = means.any(axis=1)
    found = (means @ means.sum(axis=0) - 1) / max(1, there.sum() - 1)
    return np.where(there & (there.sum() > 1), found, np.nan)


def by_group(
    values: Float[np.ndarray, " c"], groups: Sequence[str], names: Sequence[str]
) -> dict[str, float]:
    """Returns the mean over the classes of each group and of all classes; NaN without any."""
    group, known = np.array(groups), np.isfinite(values)
    members = {name: known & (group == name) for name in names} | {"all": known}
    return {
        name: float(values[chosen].mean()) if chosen.any() else float("nan")
        for name, chosen in members.items()
    }


def similarity_map(
    means: Float[np.ndarray, "c e"], most: int = LARGEST_MAP
) -> Float[np.ndarray, "b b"]:
    """Returns the cosines between class means, in the order given.

    More than `most` classes are joined into `most` bins: a value is the mean over pairs of
    different classes. The value of a class with itself is 1.
    """
    edges = np.linspace(0, len(means), min(most, len(means)) + 1).round().astype(int)[:-1]
    sizes = np.diff(np.append(edges, len(means)))
    sums = np.add.reduceat(means, edges, axis=0)
    found = sums @ sums.T / np.outer(sizes, sizes)
    same = np.einsum("be,be->b", sums, sums)  # of a bin with itself, without each class with itself
    within = np.where(sizes > 1, (same - sizes) / np.maximum(1, sizes * (sizes - 1)), 1)
    np.fill_diagonal(found, within)
    return found


def summary(
    before: Consistency, after: Consistency, groups: Sequence[str], names: Sequence[str]
) -> dict[str, dict[str, dict[str, float]]]:
    """Returns the numbers by group, state and kind: train, test, gap and similarity."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for state, each in (("before", before), ("after", after)):
        kinds: Mapping[str, np.ndarray] = {
            "train": each.train, "test": each.test, "gap": each.test - each.train,
            "similarity": each.similarity,
        }  # fmt: skip
        for kind, values in kinds.items():
            for group, value in by_group(values, groups, names).items():
                found.setdefault(group, {}).setdefault(state, {})[kind] = value
    return found
