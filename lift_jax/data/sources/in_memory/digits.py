"""The handwritten digits that come with scikit-learn, read without its import."""

import gzip
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from lift_jax.data import splits
from lift_jax.data.types import ArrayImages, Dataset, Split
from lift_jax.settings.groups.data import DataSettings

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIGITS_FILE = ("datasets", "data", "digits.csv.gz")  # in scikit-learn


def digits(settings: DataSettings, seed: int) -> Dataset:
    """Returns the real handwritten digits that come with scikit-learn, without a download.

    1,797 images of 8 x 8 pixels with 16 grey levels (the test part of UCI's "Optical Recognition
    of Handwritten Digits"), bright strokes on black, enlarged once to 32 x 32 RGB. `seed` draws
    30 test images of each class, and n_c = 140 * (1 / IR)^(c / 9), rounded, of the others: with IR
    50 these are 140, 91, 59, 38, 25, 16, 10, 7, 4 and 3 images of "zero" to "nine".
    """
    images, labels = _read_digits()
    pixels = np.stack([_enlarge(image) for image in images])
    train, test = [], []
    for c in range(len(DIGITS)):
        rows = np.random.default_rng((seed, c)).permutation(np.flatnonzero(labels == c))
        test.append(rows[:30])
        train.append(
            rows[30:][: round(splits.long_tail_count(140, settings.imbalance, c, len(DIGITS)))]
        )
    train, test = (
        Split(ArrayImages(pixels[rows], "scikit-learn's digits", rows), labels[rows])
        for rows in (np.sort(np.concatenate(train)), np.sort(np.concatenate(test)))
    )
    return Dataset(train, test, DIGITS)


def _read_digits() -> tuple[Float[np.ndarray, "n 8 8"], Int[np.ndarray, " n"]]:
    """Returns what scikit-learn's `load_digits` does, without its import, which takes long."""
    spec = importlib.util.find_spec("sklearn")
    assert spec is not None and spec.submodule_search_locations
    path = Path(spec.submodule_search_locations[0], *DIGITS_FILE)
    if not path.exists():  # in another version of scikit-learn
        from sklearn.datasets import load_digits

        bunch: Any = load_digits()
        return bunch.images, bunch.target
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = np.loadtxt(file, delimiter=",")
    return rows[:, :-1].reshape(-1, 8, 8), rows[:, -1].astype(int)


def _enlarge(image: np.ndarray) -> UInt8[np.ndarray, "32 32 3"]:
    grey = Image.fromarray(np.round(image * (255 / 16)).astype(np.uint8))
    return np.asarray(grey.resize((32, 32), Image.Resampling.BICUBIC).convert("RGB"))
