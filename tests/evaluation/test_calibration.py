"""Tests of temperature and reliability, against hand-worked numbers and a second implementation."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator

from lift_jax.evaluation.trust import calibration
from lift_jax.evaluation.trust.calibration import (
    HIGHEST,
    LOWEST,
    fit_temperature,
    log_likelihood_loss,
)


def drawn(classes, images, temperature, seed=0):
    """Returns logits, and labels that their softmax at a temperature draws."""
    rng = np.random.default_rng(seed)
    logits = 3 * rng.standard_normal((images, classes)).astype(np.float32)
    noise = rng.gumbel(size=logits.shape)
    return logits, (logits / temperature + noise).argmax(1)


def test_a_temperature_by_hand():
    # Logits (2, 0) are right three times in four: softmax(2 / T) = 3/4 means 2 / T = log 3.
    logits = np.tile(np.float32([2, 0]), (4, 1))
    found = fit_temperature(logits, np.array([0, 0, 0, 1]))
    assert found.value == pytest.approx(2 / math.log(3), rel=1e-9) and not found.at_bound
    loss = log_likelihood_loss(logits, np.array([0, 0, 0, 1]), found.value)
    assert loss == pytest.approx(-(3 * math.log(0.75) + math.log(0.25)) / 4)


@pytest.mark.parametrize("temperature", [0.3, 1, 2.5, 6])
def test_it_is_that_of_another_optimiser_and_of_a_grid(temperature):
    logits, labels = drawn(12, 3000, temperature)
    best = minimize_scalar(
        lambda b: log_likelihood_loss(logits, labels, 1 / b), bounds=(1 / HIGHEST, 1 / LOWEST),
        method="bounded", options={"xatol": 1e-10},
    )  # fmt: skip
    found = fit_temperature(logits, labels)
    assert found.value == pytest.approx(1 / best.x, rel=1e-4)
    assert found.value == pytest.approx(temperature, rel=0.1)  # by which the labels were drawn
    grid = [log_likelihood_loss(logits, labels, t) for t in np.geomspace(LOWEST, HIGHEST, 200)]
    assert log_likelihood_loss(logits, labels, found.value) <= min(grid)


class Fixed(ClassifierMixin, BaseEstimator):
    """A classifier for scikit-learn, whose logits are its inputs."""

    def fit(self, logits, labels):
        self.classes_ = np.unique(labels)
        return self

    def decision_function(self, logits):
        return logits

    def predict(self, logits):
        return logits.argmax(axis=1)


@pytest.mark.parametrize("temperature", [0.4, 2.5])
def test_it_is_that_of_scikit_learn(temperature):
    logits, labels = drawn(10, 3000, temperature)
    frozen = FrozenEstimator(Fixed().fit(logits, labels))
    theirs = CalibratedClassifierCV(frozen, method="temperature").fit(logits, labels)
    (scaling,) = theirs.calibrated_classifiers_[0].calibrators
    found = fit_temperature(logits, labels).value
    assert found == pytest.approx(1 / scaling.beta_, rel=1e-3)  # its search stops earlier
    losses = [log_likelihood_loss(logits, labels, t) for t in (found, 1 / scaling.beta_)]
    assert losses[0] <= losses[1]


@pytest.mark.parametrize(
    ("logits", "labels", "expected"),
    [
        ([[1, 0], [0, 1]], [0, 1], (LOWEST, "lowest")),  # every answer is right: ever surer is best
        ([[1, 0], [0, 1]], [1, 0], (HIGHEST, "highest")),  # none is: never sure is
        ([[3, 3], [1, 1]], [0, 1], (1.0, "")),  # nothing to choose
        (np.zeros((0, 2)), [], (1.0, "")),
    ],
)
def test_the_ends(logits, labels, expected):
    found = fit_temperature(np.float32(logits), np.array(labels, int))
    assert found == expected
    # where all is right, new answers are not called certain
    assert found.applied == (1.0 if found.at_bound == "lowest" else found.value)


def test_rows_are_worked_on_in_parts(monkeypatch):
    logits, labels = drawn(5, 300, 2)
    whole = fit_temperature(logits, labels).value, calibration.confidence(logits, 2.0)
    monkeypatch.setattr(calibration, "NUMBERS", 35)  # seven rows
    assert fit_temperature(logits, labels).value == pytest.approx(whole[0], rel=1e-9)
    np.testing.assert_array_equal(calibration.confidence(logits, 2.0), whole[1])


def test_reliability_by_hand():
    # Bins of 1/15: 0.4 is the upper end of the sixth (0.333, 0.4]; 1.0 belongs to the last.
    found = calibration.reliability(
        np.array([0.40, 0.38, 0.95, 1.0]), np.array([True, False, True, False])
    )
    assert found["count"] == [0] * 5 + [2] + [0] * 8 + [2]
    assert found["confidence"][5] == pytest.approx(39) and found["accuracy"][5] == 50
    assert found["confidence"][14] == pytest.approx(97.5) and found["accuracy"][14] == 50
    assert found["confidence"][0] is None and found["accuracy"][0] is None
    assert found["ece"] == pytest.approx((2 * 11 + 2 * 47.5) / 4)
    assert calibration.reliability(np.array([]), np.array([], bool))["ece"] is None


def test_groups_are_those_of_the_true_class():
    logits = np.log(np.float32([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.2, 0.2, 0.6]]))
    found = calibration.reliability_by_group(logits, np.array([0, 1, 2]), 1.0, [101, 20, 19])
    assert [sum(found[name]["count"]) for name in ("overall", "many", "medium", "few")] == [
        3,
        1,
        1,
        1,
    ]
    assert found["many"]["ece"] == pytest.approx(20, abs=1e-4)
    assert found["medium"]["ece"] == pytest.approx(60, abs=1e-4)  # sure by 0.6, and wrong
    assert found["few"]["ece"] == pytest.approx(40, abs=1e-4)


def test_calibration_lowers_the_error_of_an_overconfident_classifier():
    logits, labels = drawn(10, 4000, 3)
    found = fit_temperature(logits, labels)
    errors = [
        calibration.reliability_by_group(logits, labels, t, np.full(10, 50))["overall"]["ece"]
        for t in (1.0, found.value)
    ]
    assert errors[0] > 20 and errors[1] < 3
