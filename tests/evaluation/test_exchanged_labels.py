"""Tests of the search for wrong labels, on the demo's digits of which 5 % got another label.

`python tests/evaluation/test_exchanged_labels.py` prints how many of them it finds, for 200 seeds.
The constants of `label_errors` were chosen on the seeds 0 to 19; these are others.
"""

import sys
from pathlib import Path

import numpy as np
import pytest

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2])]

from configs import demo  # noqa: E402
from lift_jax.data import datasets  # noqa: E402
from lift_jax.data.images.views import TestTransform  # noqa: E402
from lift_jax.evaluation.forward import normalise  # noqa: E402
from lift_jax.evaluation.insight import label_errors  # noqa: E402
from lift_jax.settings import parse  # noqa: E402
from lift_jax.weights.load import load_backbone  # noqa: E402

SHARE = 0.05
SEEDS = range(100, 300)


def untuned_features():
    """Returns the features of the demo's training images before tuning, and their labels."""
    split = datasets.load(parse(demo.get_config()).data, 0).train
    view, visual = TestTransform(32, "bicubic"), load_backbone("demo").visual
    images = np.stack([view(split.images[i]) for i in range(len(split))])
    return np.asarray(visual(normalise(images, visual.config))).astype(np.float16), split.labels


def exchanged(labels, seed):
    """Returns labels of which a share is another class, drawn by a seed."""
    rng, found = np.random.default_rng(seed), labels.astype(np.int64)
    chosen = rng.choice(len(labels), round(SHARE * len(labels)), replace=False)
    found[chosen] = (found[chosen] + rng.integers(1, 10, len(chosen))) % 10
    return found


def measure(features, truth, seed):
    """Returns how many labels are listed, the share of them that is wrong, and the share of the
    wrong ones that is listed, and of these the share whose true class is named."""
    labels = exchanged(truth, seed)
    wrong = labels != truth
    found = label_errors.doubts(labels, *label_errors.by_neighbours(features, labels))
    hit = wrong[found.places]
    named = found.likelier[hit] == truth[found.places[hit]]
    return len(hit), hit.mean(), hit.sum() / wrong.sum(), named.mean()


@pytest.mark.slow
def test_most_exchanged_labels_are_found():
    """Means over 20 seeds; the list has 20 places for 20 wrong labels."""
    features, truth = untuned_features()
    listed, precision, recall, named = np.mean([measure(features, truth, s) for s in SEEDS[:20]], 0)
    assert 15 <= listed <= 25
    assert precision >= 0.75 and recall >= 0.65 and named >= 0.95
    clean = label_errors.doubts(truth, *label_errors.by_neighbours(features, truth))
    assert len(clean.places) <= 3 and clean.judged == len(truth)


def main():
    """Prints a line a seed, and the means."""
    features, truth = untuned_features()
    rows = [measure(features, truth, seed) for seed in SEEDS]
    for seed, row in zip(SEEDS, rows, strict=True):
        print(f"seed {seed:2}: {row[0]:3} listed, {row[1]:.0%} wrong, {row[2]:.0%} of the wrong")
    mean = np.mean(rows, axis=0)
    names = ("listed", "precision", "recall", "true class named")
    print(
        "mean:", ", ".join(f"{name} {value:.3f}" for name, value in zip(names, mean, strict=True))
    )


if __name__ == "__main__":
    main()
