"""Tests of the consistency of classes between training and test images, by hand."""

import numpy as np
import pytest

from lift_jax.evaluation.insight import consistency
from lift_jax.evaluation.insight.consistency import by_group, measure, similarity_map, summary

EAST, NORTH, WEST = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]
HALF = 0.5**0.5  # the cosine of 45 degrees
GROUPS = ("many", "medium", "few")


def arrays(*rows):
    """Returns features and labels of (label, feature) rows."""
    return np.array([row[1] for row in rows], np.float16), np.array([row[0] for row in rows])


def found(train, test, classes):
    (known, labels), (images, test_labels) = arrays(*train), arrays(*test)
    return measure(known, images, labels, test_labels, classes)


def test_distances_of_two_training_images():
    """Each training image is compared with the other, a test image with both in turn."""
    both = found([(0, EAST), (0, NORTH)], [(0, [1.0, 1.0]), (0, EAST)], 1)
    assert both.train == pytest.approx([1])
    assert both.test == pytest.approx([1 - (2 * HALF + 1 + 0) / 4])


def test_distances_of_three_training_images():
    """The means without one are east (twice north-east) for two of them, and east."""
    both = found([(0, EAST), (0, EAST), (0, NORTH)], [(0, EAST)], 1)
    assert both.train == pytest.approx([1 - (HALF + HALF + 0) / 3])
    assert both.test == pytest.approx([1 - (HALF + HALF + 1) / 3])


def test_lengths_and_order_do_not_matter():
    one = found([(1, EAST), (0, NORTH), (1, NORTH), (0, NORTH)], [(0, EAST), (1, EAST)], 2)
    other = found([(0, NORTH), (0, [0, 5.0]), (1, [0, 3.0]), (1, EAST)], [(1, EAST), (0, EAST)], 2)
    for a, b in zip((one.train, one.test), (other.train, other.test), strict=True):
        assert a == pytest.approx(b) and np.isfinite(a).all()
    assert one.train == pytest.approx([0, 1]) and one.test == pytest.approx([1, 0.5])


@pytest.mark.parametrize(("train", "test"), [
    ([(0, EAST)], [(0, EAST)]),  # one training image is its own mean
    ([(0, EAST), (0, NORTH)], [(1, EAST)]),
    ([(1, EAST), (1, NORTH)], [(0, EAST)]),
])  # fmt: skip
def test_classes_without_a_distance(train, test):
    both = found(train, test, 2)
    assert np.isnan(both.train[0]) and np.isnan(both.test[0])


def test_opposite_images_have_no_mean():
    both = found([(0, EAST), (0, WEST), (0, NORTH), (0, [0.0, -1.0])], [(0, EAST)], 1)
    assert np.isfinite(both.train).all() and not both.means.any()


def test_classes_that_are_alike_have_no_gap_however_small():
    """With plain means two training images would lie far nearer to their mean than test images."""
    rng, classes = np.random.default_rng(0), 400
    centres = np.repeat(rng.normal(size=(classes, 6)), 4, axis=0)
    images = (centres + rng.normal(size=centres.shape)).reshape(classes, 4, 6)
    labels = np.repeat(np.arange(classes), 2)
    both = measure(
        images[:, :2].reshape(-1, 6), images[:, 2:].reshape(-1, 6), labels, labels, classes
    )
    assert both.train.mean() > 0.3
    assert abs((both.test - both.train).mean()) < 0.02
    together = images[:, :2].mean(axis=1, keepdims=True) + 0.1 * images[:, :2]  # a collapse
    collapsed = measure(
        together.reshape(-1, 6), images[:, 2:].reshape(-1, 6), labels, labels, classes
    )
    assert (collapsed.test - collapsed.train).mean() > 0.2


def test_a_test_image_meets_at_most_so_many_means(monkeypatch):
    """Of three means that lack one image, the first and the last are taken."""
    monkeypatch.setattr(consistency, "LEFT_OUT", 2)
    both = found([(0, EAST), (0, EAST), (0, NORTH)], [(0, EAST)], 1)
    assert both.test == pytest.approx([1 - (HALF + 1) / 2])


def test_similarities_of_class_means():
    both = found([(0, EAST), (1, NORTH), (3, [1.0, 1.0]), (3, [2.0, 2.0])], [(0, EAST)], 4)
    assert both.means == pytest.approx(np.array([EAST, NORTH, [0, 0], [HALF, HALF]]), abs=1e-3)
    expected = [HALF / 2, HALF / 2, np.nan, HALF]
    assert both.similarity == pytest.approx(expected, abs=1e-3, nan_ok=True)
    assert np.isnan(found([(0, EAST)], [(0, EAST)], 1).similarity).all()


def test_means_over_classes():
    values = np.array([1.0, 3.0, np.nan, 10.0])
    means = by_group(values, ["many", "many", "many", "few"], GROUPS)
    assert means == pytest.approx(
        {"many": 2, "medium": np.nan, "few": 10, "all": 14 / 3}, nan_ok=True
    )


def test_a_map_of_similarities():
    means = np.array([EAST, NORTH, [HALF, HALF], WEST])
    assert similarity_map(means) == pytest.approx(means @ means.T)
    # bins east + north, north-east + west
    binned = similarity_map(means, 2)
    off = (HALF + HALF - 1 + 0) / 4
    assert binned == pytest.approx(np.array([[0, off], [off, -HALF]]))
    # bins east + north, and north-east alone, which has 1 with itself
    three = similarity_map(means[:3], 2)
    assert three == pytest.approx(np.array([[0, HALF], [HALF, 1]]))


def test_the_summary_of_two_states():
    after = found([(0, EAST), (0, EAST), (1, EAST), (1, NORTH)], [(0, NORTH), (1, NORTH)], 2)
    before = found([(0, EAST), (0, NORTH), (1, EAST), (1, NORTH)], [(0, NORTH), (1, NORTH)], 2)
    numbers = summary(before, after, ["many", "few"], GROUPS)
    assert numbers["many"]["after"]["gap"] == pytest.approx(1)  # 0 in training, 1 in test
    assert numbers["many"]["before"]["gap"] == pytest.approx(-0.5)  # 1 in training
    assert numbers["few"]["after"] == pytest.approx(numbers["few"]["before"] | {
        "similarity": HALF
    }, abs=1e-3)  # fmt: skip
    assert numbers["all"]["after"]["gap"] == pytest.approx(0.25)
