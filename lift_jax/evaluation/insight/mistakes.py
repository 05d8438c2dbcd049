"""The mistakes of a test by how sure they were, and the images that stand for a class."""

import numpy as np
from jaxtyping import Float, Int


def worst(
    labels: Int[np.ndarray, " n"],
    answered: Int[np.ndarray, " n"],
    probability: Float[np.ndarray, " n"],
    most: int,
) -> Int[np.ndarray, " m"]:
    """Returns the places of the wrong answers, the surest first, and the earlier among equals.

    Args:
        labels, answered: the true class of each image and the answer.
        probability: of the answer.
        most: number of places, at most.
    """
    wrong = np.flatnonzero(labels != answered)
    return wrong[np.argsort(-probability[wrong], kind="stable")][:most]


def confused(
    labels: Int[np.ndarray, " n"],
    answered: Int[np.ndarray, " n"],
    probability: Float[np.ndarray, " n"],
    pair: tuple[int, int],
    most: int,
) -> Int[np.ndarray, " m"]:
    """Returns the places of images of a class that are taken for another, the surest first."""
    of_pair = np.flatnonzero((labels == pair[0]) & (answered == pair[1]))
    return of_pair[np.argsort(-probability[of_pair], kind="stable")][:most]


def typical(
    labels: Int[np.ndarray, " n"],
    answered: Int[np.ndarray, " n"],
    probability: Float[np.ndarray, " n"],
    wanted: int,
) -> int | None:
    """Returns the place of the image of a class that is classified correctly and most surely.

    Returns None if no image of the class is classified correctly.
    """
    right = np.flatnonzero((labels == wanted) & (answered == wanted))
    return int(right[np.argmax(probability[right])]) if len(right) else None
