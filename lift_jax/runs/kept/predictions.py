"""The predictions that a run keeps: the likeliest classes of each test image that can be read.

They come from the pass that measures the accuracies, so the numbers of the report follow from them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int32

from lift_jax.evaluation.metrics import Counts
from lift_jax.runs.kept import kept_file

NAME, VERSION = "predictions.safetensors", "1"
TOP = 5  # classes of each image
# The last result of a run stands for it. For each ensemble: the result of one crop, which stands
# for the run instead if the ensemble does worse in validation.
ONE_CROP = {"test_tte": "test", "test_tte_adjusted": "test_adjusted"}


@dataclass(frozen=True)
class Answers:
    """The answers to all images, by one result of the run.

    Attributes:
        classes: the likeliest first.
        probabilities: of these classes, by softmax, before any temperature.
        label: the probability of the true class.
    """

    classes: Int32[np.ndarray, "n k"]
    probabilities: Float32[np.ndarray, "n k"]
    label: Float32[np.ndarray, " n"]


@dataclass(frozen=True)
class Predictions:
    """The predictions for the test images of a run that can be read, in the order of the split.

    Attributes:
        rows: indices in the test split.
        labels: true classes.
        answers: by result (a key of metrics.json): those that may stand for the run.
        zero_shot: the class by the zero-shot classifier; None if there is none.
        weights: the checksum of the tuned weights (`checkpoint.weights_checksum`).
    """

    rows: Int32[np.ndarray, " n"]
    labels: Int32[np.ndarray, " n"]
    answers: dict[str, Answers]
    zero_shot: Int32[np.ndarray, " n"] | None
    weights: int


def headline_result(results: Sequence[str], validation: Mapping[str, float] | None) -> str:
    """Returns the result that stands for a run: the last, or for an ensemble that of one crop.

    Args:
        results: those that the run has.
        validation: the means on the validation split with one crop (test) and with the ensemble
            (test_tte); None without one. Where the ensemble does worse one crop stands for the run.
    """
    single = ONE_CROP.get(results[-1])
    if single is not None and single in results and validation is not None:
        return single if validation["test_tte"] < validation["test"] else results[-1]
    return results[-1]


def of_counts(counts: Mapping[str, Counts], weights: int) -> Predictions:
    """Returns the predictions that the counts of the test hold (see `forward.answers`).

    `counts` are by result, in the order of `finished_run.RESULTS`.
    """
    last = list(counts)[-1]
    kept = [key for key in counts if key in (last, ONE_CROP.get(last))]
    by_row = {key: _in_order(counts[key]) for key in {*kept, "zero_shot"} & counts.keys()}
    image = by_row[last]["answer_image"]
    answers = {
        key: Answers(
            by_row[key]["answer_classes"], by_row[key]["answer_probabilities"],
            by_row[key]["answer_label"][:, 0],
        )
        for key in kept
    }  # fmt: skip
    zero_shot = by_row["zero_shot"]["answer_classes"][:, 0] if "zero_shot" in by_row else None
    return Predictions(image[:, 0], image[:, 1], answers, zero_shot, weights)


def _in_order(counts: Counts) -> dict[str, np.ndarray]:
    """Returns the rows of the answers in the order of the split, without padding."""
    found = {key: value for key, value in counts.items() if key.startswith("answer_")}
    rows = found["answer_image"][:, 0]
    order = np.argsort(rows, kind="stable")
    order = order[rows[order] >= 0]
    return {key: value[order] for key, value in found.items()}


def write(workdir: Path, found: Predictions) -> None:
    """Writes predictions.safetensors. Raises DiskError if it cannot be written."""
    arrays = {"rows": found.rows, "labels": found.labels}
    for key, each in found.answers.items():
        arrays |= {
            f"{key}/classes": each.classes,
            f"{key}/probabilities": each.probabilities,
            f"{key}/label": each.label,
        }
    if found.zero_shot is not None:
        arrays["zero_shot"] = found.zero_shot
    about = {
        "version": VERSION, "results": " ".join(found.answers), "weights": str(found.weights)
    }  # fmt: skip
    kept_file.write(workdir / NAME, arrays, about)


def read(workdir: Path) -> Predictions | None:
    """Returns the predictions in a run folder, None if there are none.

    Raises UserError if the file is not what the run wrote.
    """
    return kept_file.read_as(workdir / NAME, VERSION, _made_of)


def _made_of(arrays: kept_file.Arrays, about: Mapping[str, str]) -> Predictions:
    answers = {
        key: Answers(*(arrays[f"{key}/{part}"] for part in ("classes", "probabilities", "label")))
        for key in about["results"].split()
    }
    zero_shot = arrays.get("zero_shot")
    return Predictions(arrays["rows"], arrays["labels"], answers, zero_shot, int(about["weights"]))
