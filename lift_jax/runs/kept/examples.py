"""The examples that a run keeps: small copies of the images that its report shows.

They are made where the run is tested, so that a report needs no images. Beside them lie the
findings among the training images: labels that are probably wrong, and the neighbours of the surest
mistakes. doubtful_labels.csv lists all doubtful labels with the paths of their images.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from rich.console import Console

from lift_jax.data.images.decode import Picture
from lift_jax.data.types import Dataset, Split
from lift_jax.errors import UserError
from lift_jax.evaluation.insight import label_errors
from lift_jax.evaluation.insight.label_errors import Doubts
from lift_jax.evaluation.insight.neighbours import nearest
from lift_jax.runs.kept import findings, kept_file, thumbnails
from lift_jax.runs.kept.features import Features, name_of
from lift_jax.runs.kept.findings import DOUBTFUL, Findings
from lift_jax.runs.kept.predictions import Predictions
from lift_jax.storage.formats.csv_files import write_csv

NAME, VERSION = "examples.safetensors", "1"
DOUBTFUL_LABELS = "doubtful_labels.csv"
HEADER = ("split", "image", "class", "probably", "probability", "probability_of_class")
SIDE, QUALITY = 96, 80  # of the JPEGs
NEAREST = 3  # training images beside a mistake


@dataclass(frozen=True)
class Examples:
    """The images that a report shows, and what was found among the training images.

    Attributes:
        images: the JPEG by split and row, as "test/17".
        names: the path of each of these images.
        doubts: the doubtful labels of training images, whose places are rows of the split; None if
            the run keeps no features.
        labels: of these images.
        mistakes: rows in the test split of the surest mistakes.
        neighbours: rows of the training images most like each mistake, the most alike first.
        neighbour_labels, cosines: of these images.
    """

    images: dict[str, bytes]
    names: dict[str, str]
    doubts: Doubts | None
    labels: Int[np.ndarray, " m"]
    mistakes: Int[np.ndarray, " w"]
    neighbours: Int[np.ndarray, "w k"]
    neighbour_labels: Int[np.ndarray, "w k"]
    cosines: Float[np.ndarray, "w k"]


def keep(
    workdir: Path, data: Dataset, kept: Predictions, key: str, features: Features | None,
    console: Console,
) -> None:  # fmt: skip
    """Writes examples.safetensors and doubtful_labels.csv, and prints a line if there are any.

    Args:
        workdir: the run folder.
        data: the data of the run.
        kept: its predictions.
        key: the result that stands for the run.
        features: of its images; None if there are none.
        console: for the line.
    """
    found = findings.find(kept, kept.answers[key])
    of_training = _of_training(features)
    arrays, rows = _arrays(kept, found, features, of_training)
    splits = {"train": data.train, "test": data.test}
    images, names = {}, {}
    for name, split in splits.items():
        for row in sorted(rows[name]):
            if (jpeg := thumbnail(split, row)) is not None:
                images[f"{name}/{row}"] = np.frombuffer(jpeg, np.uint8)
            names[f"{name}/{row}"] = name_of(split.images, row)
    arrays["names"] = np.frombuffer(json.dumps(names).encode(), np.uint8)
    judged = (of_training.judged, of_training.unjudged) if of_training is not None else ("", "")
    about = {"version": VERSION, "judged": str(judged[0]), "unjudged": str(judged[1])}
    kept_file.write(workdir / NAME, arrays | images, about)
    _write_doubts(workdir, data, kept, found.doubts, features, of_training, console)


def _of_training(features: Features | None) -> Doubts | None:
    """Returns the doubtful labels of the training images, by their features before tuning."""
    if features is None or len(features.labels) < 2:
        return None
    by_neighbours = label_errors.by_neighbours(features.before, features.labels)
    return label_errors.doubts(features.labels, *by_neighbours)


def _arrays(
    kept: Predictions, found: Findings, features: Features | None, doubts: Doubts | None
) -> tuple[dict[str, np.ndarray], dict[str, set[int]]]:
    """Returns the arrays of the findings, and the rows of the images to keep by split."""
    rows = {"test": {int(kept.rows[place]) for place in found.shown()}, "train": set()}
    arrays: dict[str, np.ndarray] = {}
    if features is None:
        return arrays, rows
    if doubts is not None:
        at = doubts.places
        arrays = {
            "doubts/rows": features.rows[at], "doubts/labels": features.labels[at],
            "doubts/likelier": doubts.likelier.astype(np.int32),
            "doubts/given": doubts.given.astype(np.float32),
            "doubts/other": doubts.other.astype(np.float32),
        }  # fmt: skip
        rows["train"] |= set(features.rows[at[:DOUBTFUL]].tolist())
    mistakes = kept.rows[found.worst]
    place_of = {row: place for place, row in enumerate(features.test_rows.tolist())}
    known = [row for row in mistakes.tolist() if row in place_of]  # features may be of a part
    queries = features.test_after[[place_of[row] for row in known]]
    places, cosines = nearest(queries, features.after, NEAREST)
    rows["train"] |= set(features.rows[places].ravel().tolist())
    arrays |= {
        "mistakes": np.array(known, np.int32), "neighbours": features.rows[places],
        "neighbour_labels": features.labels[places], "cosines": cosines.astype(np.float32),
    }  # fmt: skip
    return arrays, rows


def thumbnail(split: Split, row: int) -> bytes | None:
    """Returns a small JPEG of an image, None if it cannot be read."""
    try:
        return thumbnails.jpeg(Picture.of(split.images[row]), SIDE, "bilinear", QUALITY)
    except UserError:
        return None


def _write_doubts(
    workdir: Path, data: Dataset, kept: Predictions, of_test: Doubts, features: Features | None,
    of_training: Doubts | None, console: Console,
) -> None:  # fmt: skip
    """Writes doubtful_labels.csv, the most doubtful label of each split first."""
    lines: list[tuple[object, ...]] = []
    if features is not None and of_training is not None:
        rows, labels = features.rows[of_training.places], features.labels[of_training.places]
        lines += _lines("train", data.train, rows, labels, of_training, data.class_names)
    rows, labels = kept.rows[of_test.places], kept.labels[of_test.places]
    lines += _lines("test", data.test, rows, labels, of_test, data.class_names)
    write_csv(workdir / DOUBTFUL_LABELS, HEADER, lines)
    if lines:
        judged = of_test.judged + (of_training.judged if of_training is not None else 0)
        console.print(
            f"Labels that are probably wrong: {len(lines):,} of {judged:,}, listed in "
            f"{workdir / DOUBTFUL_LABELS}."
        )


def _lines(
    name: str, split: Split, rows: np.ndarray, labels: np.ndarray, doubts: Doubts,
    class_names: tuple[str, ...],
) -> Iterable[tuple[object, ...]]:  # fmt: skip
    numbers = zip(
        rows.tolist(), labels.tolist(), doubts.likelier.tolist(), doubts.other.tolist(),
        doubts.given.tolist(), strict=True,
    )  # fmt: skip
    for row, label, likelier, other, given in numbers:
        image = name_of(split.images, row)
        yield name, image, class_names[label], class_names[likelier], f"{other:.4f}", f"{given:.4f}"


def read(workdir: Path) -> Examples | None:
    """Returns the examples in a run folder, None if there are none.

    Raises UserError if the file is not what the run wrote.
    """
    return kept_file.read_as(workdir / NAME, VERSION, _made_of)


def _made_of(arrays: kept_file.Arrays, about: Mapping[str, str]) -> Examples:
    images = {key: arrays[key].tobytes() for key in arrays if key.startswith(("test/", "train/"))}
    doubts, none = None, np.zeros(0, np.int32)
    if "doubts/rows" in arrays:
        doubts = Doubts(
            arrays["doubts/rows"], arrays["doubts/likelier"], arrays["doubts/given"],
            arrays["doubts/other"],
            int(about["judged"]), int(about["unjudged"]),
        )  # fmt: skip
    return Examples(
        images, json.loads(arrays["names"].tobytes()), doubts, arrays.get("doubts/labels", none),
        arrays.get("mistakes", none), _table(arrays, "neighbours"),
        _table(arrays, "neighbour_labels"), _table(arrays, "cosines"),
    )  # fmt: skip


def _table(arrays: Mapping[str, np.ndarray], key: str) -> np.ndarray:
    return arrays.get(key, np.zeros((0, 0), np.int32))
