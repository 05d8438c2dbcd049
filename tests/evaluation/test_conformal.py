"""Tests of prediction sets: quantiles worked by hand, and coverage over many random splits."""

import numpy as np
import pytest

from lift_jax.evaluation.trust import conformal
from lift_jax.evaluation.trust.conformal import FULL, class_quantiles, quantile, thresholds

TENTHS = np.arange(1, 10) / 10  # 0.1 to 0.9


@pytest.mark.parametrize(
    ("n", "coverage", "expected"),
    [
        (9, 0.9, 0.9),  # ceil(10 x 0.9) = 9, the largest of nine
        (9, 0.8, 0.8),
        (9, 0.85, 0.9),  # ceil(8.5) = 9
        (9, 0.91, FULL),  # ceil(9.1) = 10 of nine: every class is in
        (8, 0.9, FULL),  # ceil(8.1) = 9 of eight
        (4, 0.8, 0.4),
        (3, 0.8, FULL),
        (1, 0.5, 0.1),
        (1, 0.51, FULL),
        (0, 0.1, FULL),
        (9, 0.01, 0.1),
    ],
)
def test_quantiles_by_hand(n, coverage, expected):
    scores = np.random.default_rng(0).permutation(TENTHS[:n])
    assert quantile(scores, coverage) == pytest.approx(expected)
    labels = np.full(n, 1)
    assert class_quantiles(scores, labels, 3, coverage) == pytest.approx([FULL, expected, FULL])


@pytest.mark.parametrize(("n", "coverage", "place"), [(99, 0.55, 55), (99, 0.07, 7), (9, 0.9, 9)])
def test_the_last_bit_of_a_product_counts_nothing(n, coverage, place):
    assert conformal.rank(n, coverage) == place  # 100 x 0.55 is 55.00000000000001


@pytest.mark.parametrize(("coverage", "n"), [(0.9, 9), (0.99, 99), (0.8, 4), (0.5, 1), (0.1, 1)])
def test_the_fewest_images(coverage, n):
    assert conformal.fewest(coverage) == n
    assert conformal.rank(n, coverage) <= n and (n == 1 or conformal.rank(n - 1, coverage) > n - 1)


def test_classes_and_what_lies_between():
    labels = np.array([0, 1] * 9)
    scores = np.where(labels == 0, np.repeat(TENTHS, 2) / 10, np.repeat(TENTHS, 2))
    # all 18: ceil(19 x 0.9) = 18th, 0.9. Class 0: 0.09; class 1: 0.9; class 2 has no image.
    assert thresholds(scores, labels, 3, 0.9, 1.0) == pytest.approx([0.09, 0.9, 1])
    assert thresholds(scores, labels, 3, 0.9, 0.0) == pytest.approx([0.9] * 3)
    assert thresholds(scores, labels, 3, 0.9, 0.25) == pytest.approx([0.6975, 0.9, 0.925])


def test_scores_by_hand():
    logits = np.log(np.float32([[0.6, 0.3, 0.1]]))
    found = conformal.class_scores(logits, "softmax", [6, 3, 1])
    np.testing.assert_allclose(found, [[0.4, 0.7, 0.9]], rtol=1e-6)
    found = conformal.class_scores(logits, "pas", [6, 3, 1])  # p / prior is the same for all
    np.testing.assert_allclose(found, [[2 / 3] * 3], rtol=1e-6)
    found = conformal.class_scores(logits, "pas", [8, 1, 0])  # 0 counts as 1: 0.75, 3, 1 of 4.75
    np.testing.assert_allclose(found, 1 - np.array([[0.75, 3, 1]]) / 4.75, rtol=1e-6)
    for score in conformal.SCORES:
        classes = conformal.class_scores(logits, score, [8, 1, 1])
        found = conformal.true_scores(logits, np.array([1]), score, [8, 1, 1])
        assert found.dtype == np.float32 and found[0] == classes[0, 1]
    assert conformal.class_scores(np.float32([[500, 0]]), "softmax", [1, 1]).tolist() == [[0, 1]]


def test_the_score_follows_the_loss():
    """With logit adjustment the softmax is p / prior already: `pas` of ce is `softmax` of la."""
    rng, counts = np.random.default_rng(0), np.array([900, 90, 10])
    balanced = rng.standard_normal((50, 3)).astype(np.float32)  # what `la` learns
    prior = balanced + np.log(counts / counts.sum())  # what `ce` learns
    by_ce = conformal.class_scores(prior, conformal.default_score("ce"), counts)
    by_la = conformal.class_scores(balanced, conformal.default_score("la"), counts)
    np.testing.assert_allclose(by_ce, by_la, atol=1e-6)


def long_tailed(rng, images):
    """Returns logits and labels of a long-tailed problem in which rare classes are hard."""
    prior = np.array([0.4, 0.25, 0.15, 0.1, 0.06, 0.04])
    labels = rng.choice(6, images, p=prior)
    logits = 1.3 * rng.standard_normal((images, 6)) + np.log(prior)
    logits[np.arange(images), labels] += 2
    return logits.astype(np.float32), labels


def test_coverage_is_what_was_asked():
    """Over 200 splits: of all images at t = 0, of each class at t = 1, whatever the score."""
    rng, counts, asked = np.random.default_rng(1), [400, 250, 150, 100, 60, 40], 0.9
    found = {(score, t): [] for score in conformal.SCORES for t in (0.0, 0.5, 1.0)}
    logits, labels = long_tailed(rng, 4000)
    every = {s: conformal.class_scores(logits, s, counts) for s in conformal.SCORES}
    for _ in range(200):
        order = rng.permutation(len(labels))
        one, other = order[:2000], order[2000:]
        for (score, t), shares in found.items():
            own = every[score][one, labels[one]]
            limits = thresholds(own, labels[one], 6, asked, t)
            inside = every[score][other] <= limits
            true = inside[np.arange(len(other)), labels[other]]
            shares.append([true.mean(), *(true[labels[other] == c].mean() for c in range(6))])
    for (score, t), shares in found.items():
        overall, *classes = np.mean(shares, axis=0)
        assert abs(overall - asked) < (0.01 if t in (0, 1) else 0.06), (score, t)
        if t == 1:  # the rarest class has 80 images, of which a quantile takes one more than asked
            assert np.abs(np.array(classes) - asked).max() < 0.015, (score, t)
    # without quantiles of their own, rare classes get less by the plain score of ce
    assert np.mean(found["softmax", 0.0], axis=0)[-1] < 0.7
    assert np.mean(found["pas", 0.0], axis=0)[-1] > np.mean(found["softmax", 0.0], axis=0)[-1]
