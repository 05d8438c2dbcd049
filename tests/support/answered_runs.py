"""Made-up run folders whose numbers follow from the answers to single images that they keep."""

import io
import json

import numpy as np
from PIL import Image

from lift_jax.evaluation import metrics
from lift_jax.runs import finished_run
from lift_jax.runs.kept import examples, findings, kept_file, predictions
from lift_jax.storage import atomic
from lift_jax.storage.formats.csv_files import write_csv


def answers(rng, labels, classes, right, top=5):
    """Returns made-up answers, of which about a share `right` is right."""
    n, k = len(labels), min(top, classes)
    given = np.where(rng.random(n) < right, labels, rng.integers(0, max(1, classes // 3), n))
    others = rng.integers(0, classes, (n, k))
    others = np.where(others == given[:, None], (given[:, None] + 1) % classes, others)
    found = np.concatenate([given[:, None], others[:, 1:]], axis=1).astype(np.int32)
    surest = rng.uniform(0.3, 1, n)
    rest = (1 - surest[:, None]) / k * np.linspace(1, 0.5, max(0, k - 1))
    probabilities = np.concatenate([surest[:, None], rest], axis=1).astype(np.float32)
    own = np.where(found == labels[:, None], probabilities, 0).max(axis=1)
    return predictions.Answers(found, probabilities, own)


def counts_of(labels, answered, confidence, classes):
    """Returns the counts of answers, as the test of a run does."""
    bins = np.clip(np.ceil(confidence * metrics.BINS).astype(int) - 1, 0, metrics.BINS - 1)
    right = labels == answered
    return {
        "correct": np.bincount(labels[right], minlength=classes),
        "total": np.bincount(labels, minlength=classes),
        "predicted": np.bincount(answered, minlength=classes),
        "bin_total": np.bincount(bins, minlength=metrics.BINS),
        "bin_correct": np.bincount(bins[right], minlength=metrics.BINS),
        "bin_confidence": np.bincount(bins, confidence.astype(float), minlength=metrics.BINS),
    }


def answer(workdir, each=13, seed=0):
    """Gives a made-up run answers and examples, and its tables the numbers that follow."""
    rng = np.random.default_rng(seed)
    about = json.loads((workdir / "config.json").read_text())["data_summary"]
    train, names = np.array(about["counts"]), about["class_names"]
    classes = len(names)
    labels = np.repeat(np.arange(classes), each).astype(np.int32)
    labels = labels[labels != 1]  # as in the other made-up runs
    zero_shot = answers(rng, labels, classes, 0.5)
    kept = predictions.Predictions(
        np.arange(len(labels), dtype=np.int32), labels,
        {key: answers(rng, labels, classes, share) for key, share in
         (("test", 0.6), ("test_tte", 0.65))},
        zero_shot.classes[:, 0], 0,
    )  # fmt: skip
    predictions.write(workdir, kept)
    found = json.loads((workdir / "metrics.json").read_text())
    accuracy = {}
    for key, one in {"zero_shot": zero_shot, **kept.answers}.items():
        counts = counts_of(labels, one.classes[:, 0], one.probabilities[:, 0], classes)
        found[key] = metrics.summarise(counts, train)
        accuracy[key] = metrics.class_accuracy(counts)
    atomic.write_json(workdir / "metrics.json", found)
    groups = metrics.groups(train)
    images = np.bincount(labels, minlength=classes)
    write_csv(workdir / "per_class.csv", finished_run.class_columns(found), [
        [c, names[c], train[c], next(g for g in groups if groups[g][c]), images[c],
         *(float(accuracy[key][c]) if images[c] else None for key in accuracy)]
        for c in range(classes)
    ])  # fmt: skip
    keep_images(workdir, kept, rng, classes)
    return kept


def keep_images(workdir, kept, rng, classes):
    """Writes examples.safetensors with noise as images, and a doubtful training label."""
    found = findings.find(kept, kept.answers["test_tte"])
    rows = [f"test/{kept.rows[place]}" for place in found.shown()]
    rows += [f"train/{row}" for row in range(6)]
    content = io.BytesIO()
    noise = rng.integers(0, 256, (12, 12, 3), np.uint8)
    Image.fromarray(noise).resize((96, 72)).save(content, "JPEG", quality=examples.QUALITY)
    images = {key: np.frombuffer(content.getvalue(), np.uint8) for key in rows}
    names = {key: f"folder <{key}>.jpg" for key in rows}
    mistakes = kept.rows[found.worst].astype(np.int32)
    neighbours = np.tile(np.arange(3, dtype=np.int32), (len(mistakes), 1))
    arrays = {
        "names": np.frombuffer(json.dumps(names).encode(), np.uint8),
        "doubts/rows": np.array([4, 5], np.int32), "doubts/labels": np.array([0, 1], np.int32),
        "doubts/likelier": np.array([1, 0], np.int32),
        "doubts/given": np.array([0.0625, 0.125], np.float32),
        "doubts/other": np.array([0.875, 0.75], np.float32),
        "mistakes": mistakes, "neighbours": neighbours,
        "neighbour_labels": np.minimum(neighbours, classes - 1),
        "cosines": np.full(neighbours.shape, 0.5, np.float32),
    }  # fmt: skip
    about = {"version": examples.VERSION, "judged": "100", "unjudged": "3"}
    kept_file.write(workdir / examples.NAME, arrays | images, about)
