"""Tests of the digits: they are scikit-learn's, read without its import."""

import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits
from support.paths import ROOT

from lift_jax.data.sources.in_memory import digits


@pytest.mark.parametrize("place", [digits.DIGITS_FILE, ("moved.csv.gz",)])
def test_they_are_those_of_scikit_learn(place, monkeypatch):
    monkeypatch.setattr(digits, "DIGITS_FILE", place)
    images, labels = digits._read_digits()
    expected = load_digits()
    np.testing.assert_array_equal(images, expected.images)
    np.testing.assert_array_equal(labels, expected.target)
    assert labels.dtype == expected.target.dtype and images.dtype == expected.images.dtype


def test_reading_them_does_not_import_scikit_learn():
    code = "import sys; from lift_jax.data.sources.in_memory import digits; digits._read_digits()"
    code += "; assert not {'sklearn', 'scipy.stats', 'scipy.optimize'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100, cwd=ROOT)
