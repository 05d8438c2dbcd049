"""Tests of the scores that tell unknown images, on numbers worked by hand and made-up classes."""

import math

import numpy as np
import pytest

from lift_jax.evaluation.trust import unknown


def test_scores_by_hand():
    logits = np.float32([[1, 3], [0, 0]])
    assert unknown.scores_of_logits(logits, "max_logit", 1).tolist() == [3, 0]
    energy = [math.log(math.e + math.e**3), math.log(2)]
    assert unknown.scores_of_logits(logits, "energy", 1) == pytest.approx(energy, rel=1e-6)
    assert unknown.scores_of_logits(logits, "max_probability", 2.0) == pytest.approx(
        [1 / (1 + math.exp(-1)), 0.5], rel=1e-6
    )


@pytest.mark.parametrize(
    ("known", "others", "area"),
    [([3, 4], [1, 2], 1), ([1, 2], [3, 4], 0), ([1, 3], [2], 0.5), ([1, 1], [1], 0.5),
     ([1, 2, 3, 4], [2.5, 2], 0.5625)],
)  # fmt: skip
def test_area_by_hand(known, others, area):
    # the last: of 8 pairs 3 > 2.5, 4 > 2.5, 3 > 2, 4 > 2 and half of 2 = 2
    assert unknown.auroc(np.array(known), np.array(others)) == area


@pytest.mark.parametrize(
    ("n", "keep", "threshold", "kept"),
    [(20, 0.95, 2, 19), (20, 0.94, 2, 19), (20, 0.9, 3, 18), (10, 0.95, 1, 10), (1, 0.01, 1, 1),
     (100, 0.71, 30, 71)],
)  # fmt: skip
def test_threshold_by_hand(n, keep, threshold, kept):
    scores = np.random.default_rng(0).permutation(np.arange(1, n + 1))
    assert unknown.threshold(scores, keep) == threshold
    assert (scores >= threshold).sum() == kept >= keep * n
    assert unknown.threshold(scores[:0], keep) == -math.inf


def test_an_image_is_left_out_of_its_own_mean():
    features = np.float32([[1, 0], [0, 1], [0, 1], [1, 1]])
    labels, every = np.array([0, 1, 1, 2]), np.ones(4, bool)
    found = unknown.cosines_left_out(features, labels, 4, every)
    half = math.sqrt(0.5)
    # class 0 and class 2 have one image, which is compared with the other classes
    assert found == pytest.approx([half, 1, 1, half], rel=1e-6)
    held_out = np.array([True, False, True, True])
    found = unknown.cosines_left_out(features, labels, 4, held_out)
    assert found == pytest.approx([half, half, half, half], rel=1e-6)
    apart = np.float32([[1, 0], [0, 1], [-1, 0]])  # two of class 0 at right angles
    found = unknown.cosines_left_out(apart, np.array([0, 0, 1]), 2, every[:2])
    assert found == pytest.approx([0, 0, -half], abs=1e-6)
    means = unknown.class_means(features, labels, 4)
    assert means.dtype == np.float16 and not means[3].any()  # no image, no mean
    assert unknown.cosines(np.float32([[0, -2], [3, 0]]), means) == pytest.approx([0, 1])


def made_up(scale, classes=8, images=40, width=16):
    """Returns the outputs of a cosine classifier; the length of features says nothing."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((classes, width))
    labels = np.repeat(np.arange(classes), images)
    features = centres[labels] + 0.5 * rng.standard_normal((len(labels), width))
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    logits = scale * units @ (centres / np.linalg.norm(centres, axis=1, keepdims=True)).T
    return logits.astype(np.float32), features.astype(np.float32), labels, centres


def test_the_choice_tells_classes_that_were_never_seen(monkeypatch):
    logits, features, labels, centres = made_up(25)
    score, areas = unknown.choose_score(logits, features, labels, 1.0)
    assert set(areas) == set(unknown.SCORES) and areas[score] == max(areas.values()) > 0.9
    rng = np.random.default_rng(1)
    strange = rng.standard_normal((300, 16))
    strange /= np.linalg.norm(strange, axis=1, keepdims=True)
    found = strange @ (centres / np.linalg.norm(centres, axis=1, keepdims=True)).T * 25
    known = unknown.scores_of_logits(logits, "max_logit", 1.0)
    right = known[logits.argmax(1) == labels]
    limit = unknown.threshold(right, 0.95)
    assert 0.95 <= (right >= limit).mean() < 0.96
    assert (unknown.scores_of_logits(found, "max_logit", 1.0) < limit).mean() > 0.9
    monkeypatch.setattr(unknown, "MOST_MEANS", 8 * 16 - 1)  # too many numbers to keep
    assert "cosine" not in unknown.choose_score(logits, features, labels, 1.0)[1]


def test_too_few_classes_and_equal_scores():
    logits, features, labels, _ = made_up(25)
    few = labels < 2
    assert unknown.choose_score(logits[few], features[few], labels[few], 1.0) == ("max_logit", {})
    score, areas = unknown.choose_score(np.zeros_like(logits), np.zeros_like(features), labels, 1.0)
    assert score == "max_logit" and set(areas.values()) == {0.5}  # the first among equals
