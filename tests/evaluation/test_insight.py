"""Tests of what is found in the answers of a test, worked by hand."""

import numpy as np
import pytest

from lift_jax.evaluation.insight import class_changes, confusions, label_errors, mistakes
from lift_jax.evaluation.insight.confusions import Pair

LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
ANSWERED = np.array([0, 1, 1, 2, 1, 0, 0, 2, 2, 1])
PROBABILITY = np.array([0.9, 0.6, 0.8, 0.8, 0.5, 0.7, 0.9, 0.6, 0.7, 0.4])


def test_pairs_count_both_directions():
    """0 and 1: two each way, of 4 and 3 images; 0 -> 2: one of 4; 2 -> 1: one of 3."""
    assert confusions.pairs(LABELS, ANSWERED, 9) == [
        Pair(0, 1, 2, 2, 4, 3),
        Pair(2, 1, 1, 0, 3, 3),  # 1 of 6 images
        Pair(0, 2, 1, 0, 4, 3),  # 1 of 7
    ]
    assert len(confusions.pairs(LABELS, ANSWERED, 2)) == 2
    assert confusions.pairs(LABELS, LABELS, 9) == []


def test_the_direction_with_more_images_comes_first():
    labels, answered = np.array([3, 5, 5, 5]), np.array([5, 3, 3, 5])
    assert confusions.pairs(labels, answered, 9) == [Pair(5, 3, 2, 1, 3, 1)]


def test_the_surest_mistakes_come_first():
    """Wrong: 1 (.6), 2 (.8), 3 (.8), 5 (.7), 6 (.9), 9 (.4)."""
    assert mistakes.worst(LABELS, ANSWERED, PROBABILITY, 9).tolist() == [6, 2, 3, 5, 1, 9]
    assert mistakes.worst(LABELS, ANSWERED, PROBABILITY, 2).tolist() == [6, 2]
    assert mistakes.confused(LABELS, ANSWERED, PROBABILITY, (1, 0), 9).tolist() == [6, 5]


def test_the_image_that_stands_for_a_class():
    assert mistakes.typical(LABELS, ANSWERED, PROBABILITY, 2) == 8
    assert mistakes.typical(LABELS, ANSWERED, PROBABILITY, 3) is None


def test_a_label_is_doubtful_where_another_class_reaches_its_threshold():
    """Thresholds, the means of the labels' own probabilities: class 0 has 0.5, class 1 has 0.6.

    Image 2 gives class 1 0.7 >= 0.6, and its own label 0.1. Image 5 gives class 0 0.55 >= 0.5 and
    its own label 0.4, which is not clear. Class 2 has two images, so neither they are judged nor is
    an image (3) taken for one of theirs.
    """
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2])
    own = np.array([0.9, 0.8, 0.1, 0.2, 0.9, 0.4, 0.5, 0.1, 0.2])
    classes = np.array([[0, 1], [0, 1], [1, 0], [2, 0], [1, 0], [0, 1], [1, 0], [0, 2], [1, 2]])
    probabilities = np.array(
        [[0.9, 0.1], [0.8, 0.1], [0.7, 0.1], [0.8, 0.2], [0.9, 0.1], [0.55, 0.4], [0.5, 0.4],
         [0.9, 0.1], [0.8, 0.2]]
    )  # fmt: skip
    found = label_errors.doubts(labels, own, classes, probabilities)
    assert found.places.tolist() == [2] and found.likelier.tolist() == [1]
    assert (found.given[0], found.other[0]) == (0.1, 0.7)
    assert (found.judged, found.unjudged) == (7, 2)


def test_the_most_doubtful_label_comes_first():
    labels = np.array([0, 0, 0, 1, 1, 1])
    own = np.array([0.2, 0.9, 0.1, 0.9, 0.0, 0.9])
    classes = np.array([[1, 0], [0, 1], [1, 0], [1, 0], [0, 1], [1, 0]])
    top = np.array([0.8, 0.9, 0.9, 0.9, 1.0, 0.9])
    found = label_errors.doubts(labels, own, classes, np.stack([top, 1 - top], axis=1))
    assert found.places.tolist() == [4, 2, 0]  # margins -1, -0.8, -0.6
    assert found.likelier.tolist() == [0, 1, 1]


def test_an_image_is_no_neighbour_of_itself():
    places = np.array([[1, 0, 2], [1, 2, 0], [0, 1, 3]])
    cosines = np.array([[1.0, 0.9, 0.8], [1.0, 0.9, 0.8], [0.7, 0.6, 0.5]])
    found = label_errors.without_itself(places, cosines)
    assert found[0].tolist() == [[1, 2], [2, 0], [0, 1]]
    assert found[1].tolist() == [[1.0, 0.8], [0.9, 0.8], [0.7, 0.6]]


def test_neighbours_vote_by_likeness():
    """Two groups of features at a right angle, one label of each exchanged.

    The largest t is the likeliest, 0.5, by which the 6 images of the other group weigh e^-2 each.
    """
    features = np.repeat(np.eye(2, dtype=np.float32), 6, axis=0)
    labels = np.array([0] * 5 + [1] + [1] * 5 + [0])
    label, classes, probabilities = label_errors.by_neighbours(features, labels)
    found = label_errors.doubts(labels, label, classes, probabilities)
    far = np.exp(-2)
    assert sorted(found.places.tolist()) == [5, 11]
    np.testing.assert_allclose(found.other, (5 + far) / (5 + 6 * far), rtol=1e-6)
    np.testing.assert_allclose(label[:5], (4 + far) / (5 + 6 * far), rtol=1e-6)
    again = label_errors.by_neighbours(features, labels)
    assert all(
        np.array_equal(a, b) for a, b in zip((label, classes, probabilities), again, strict=True)
    )


def test_exchanged_labels_are_found():
    """5 % of the labels of a long tail of 12 overlapping groups; chance would find 5 % of them."""
    rng = np.random.default_rng(0)
    counts = np.array([80, 60, 45, 30, 20, 15, 10, 8, 5, 4, 2, 1])
    truth = np.repeat(np.arange(12), counts)
    centres = rng.normal(size=(12, 16))
    features = centres[truth] + 0.8 * rng.normal(size=(len(truth), 16))
    labels = truth.copy()
    chosen = rng.choice(len(truth), len(truth) // 20, replace=False)
    labels[chosen] = (labels[chosen] + rng.integers(1, 12, len(chosen))) % 12
    found = label_errors.doubts(labels, *label_errors.by_neighbours(features, labels))
    right = np.isin(found.places, chosen).sum()
    assert right / len(found.places) > 0.7 and right / len(chosen) > 0.7
    few = np.bincount(labels)[labels] < label_errors.FEWEST
    assert found.unjudged == few.sum() and not few[found.places].any()


@pytest.mark.parametrize(
    ("counts", "accuracy", "expected"),
    [
        ([1, 2, 3, 4, 7, 8], [10, 20, 40, 60, 80, 90],
         [(1, 1, 1, 10), (2, 3, 2, 30), (4, 7, 2, 70), (8, 15, 1, 90)]),
        ([0, 1, 5, 5], [50, np.nan, 20, np.nan], [(4, 7, 1, 20)]),
        ([0, 0], [50, 60], []),
    ],
)  # fmt: skip
def test_bands_double(counts, accuracy, expected):
    found = class_changes.bands(np.array(counts), np.array(accuracy, float))
    assert [(b.low, b.high, b.classes, b.mean) for b in found] == expected


def test_a_band_stands_at_the_geometric_mean():
    (band,) = class_changes.bands(np.array([4, 6]), np.array([1.0, 2.0]))
    assert band.images == pytest.approx(24**0.5)


def test_gains_and_losses():
    before = np.array([50.0, 50, 50, np.nan, 50, 50])
    after = np.array([60.0, 40, 50, 90, 80, 40])
    gains, losses = class_changes.changes(before, after, 5)
    assert gains.tolist() == [4, 0] and losses.tolist() == [1, 5]
    gains, losses = class_changes.changes(before, after, 1)
    assert gains.tolist() == [4] and losses.tolist() == [1]
