"""The file calibration.json of a run folder, with a checksum of its own.

`one_crop` and `crops` hold the calibration of answers from one crop and from a test-time ensemble;
a run without ensemble has no `crops`. Long lists of numbers are little-endian float32 in base64,
which keeps the file small: 2 MB for 8,142 classes and 44,000 images.
"""

import base64
import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from lift_jax.errors import UserError
from lift_jax.evaluation.trust import conformal, unknown
from lift_jax.storage import atomic
from lift_jax.storage.reading import RUN_BYTES, read_json

NAME, CHECKSUM, VERSION = "calibration.json", "checksum", 1
NO_SPLIT = (
    "there is no validation split, and the test split must not calibrate. Train with "
    "--config.data.val_share=0.1, which holds that share of the training images out"
)


@dataclass(frozen=True)
class View:
    """The calibration of the answers from one view of an image.

    Attributes:
        temperature: by which logits are divided.
        unknown_score: the score by which unknown images are recognised (`unknown.SCORES`).
        keep: the default share of right answers that are kept.
        right_scores: the scores of the correctly classified validation images, ascending.
        means: the class means, where the score is `cosine`.
        set_score: the score of prediction sets (`conformal.SCORES`).
        set_weight: weight of a class's own threshold against that of all images.
        coverage: the default share of sets that hold the true class.
        set_scores: of the validation images, by their labels and then ascending.
        labels: of the validation images, ascending.
        train_counts: training images of each class, as often as training draws them.
    """

    temperature: float
    unknown_score: str
    keep: float
    right_scores: Float[np.ndarray, " r"]
    means: Float[np.ndarray, "c d"] | None
    set_score: str
    set_weight: float
    coverage: float
    set_scores: Float[np.ndarray, " n"]
    labels: Int[np.ndarray, " n"]
    train_counts: Float[np.ndarray, " c"]

    def unknown_threshold(self, keep: float) -> float:
        """Returns the score below which an image is unknown, for a share of right answers kept."""
        return unknown.threshold(self.right_scores, keep)

    def set_thresholds(self, coverage: float) -> Float[np.ndarray, " c"]:
        """Returns the largest score of each class in a set, for any coverage."""
        classes = len(self.train_counts)
        return conformal.thresholds(
            self.set_scores, self.labels, classes, coverage, self.set_weight
        )


def write(workdir: Path, content: Mapping[str, Any]) -> Path:
    """Writes calibration.json, a key a line, with its checksum; returns the path."""
    lines = [f"{json.dumps(key)}: {_text(value)}" for key, value in content.items()]
    lines.append(f"{json.dumps(CHECKSUM)}: {_sum(content)}")
    atomic.write_bytes(workdir / NAME, ("{\n" + ",\n".join(lines) + "\n}\n").encode())
    return workdir / NAME


def read(workdir: Path) -> dict[str, Any] | None:
    """Returns the content of calibration.json, None if there is none.

    Raises UserError if it is not what was written.
    """
    path = workdir / NAME
    if not path.exists() and not path.is_symlink():
        return None
    remedy = f"Run `lift-jax calibrate --run={workdir}` again, which replaces it."
    content = read_json(path, most_bytes=RUN_BYTES, remedy=remedy)
    if content.pop(CHECKSUM, None) != _sum(content):
        raise UserError(f"{path} is not what lift_jax wrote: its checksum differs. {remedy}")
    if content.get("version") != VERSION:
        raise UserError(f"{path} is of another version of lift_jax. {remedy}")
    return content


def damaged(workdir: Path) -> bool:
    """Returns True if there is a calibration.json that is not what was written."""
    try:
        read(workdir)
    except UserError:
        return True
    return False


def view_of(workdir: Path, weights: int, classes: int, crops: bool) -> View | None:
    """Returns the calibration of a run for one crop or several, None if there is none.

    `weights` is the `checkpoint.weights_checksum` of the run. A warning says so where the file has
    a calibration of the other kind, or of other weights. Raises UserError if it is damaged.
    """
    content = read(workdir)
    if content is None:
        return None
    path = workdir / NAME
    again = f"Run `lift-jax calibrate --run={workdir}` again."
    if content.get("weights") != weights:
        atomic.warn(
            f"{path} belongs to another checkpoint than the one that is used, so these answers are "
            f"not calibrated. {again}"
        )
        return None
    found = content.get("crops" if crops else "one_crop")
    if found is None:
        atomic.warn(
            f"{path} holds no calibration for several crops (the run has test.tte=False), so "
            "these answers are not calibrated."
        )
        return None
    try:
        return _view(content, found, classes)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{path} is not what lift_jax wrote: {error!r}. {again}") from error


def packed(values: np.ndarray) -> str:
    """Returns numbers as text: little-endian, float16 as it is and all others as float32."""
    kind = "<f2" if values.dtype == np.float16 else "<f4"
    return base64.b64encode(np.ascontiguousarray(values, kind).tobytes()).decode()


def unpacked(text: str, kind: str = "<f4") -> np.ndarray:
    """Returns the numbers in a text of `packed`. Raises ValueError for another text."""
    return np.frombuffer(base64.b64decode(text, validate=True), kind)


def _view(content: Mapping[str, Any], found: Mapping[str, Any], classes: int) -> View:
    """Returns a view. Raises KeyError, TypeError, ValueError or OverflowError for another file."""
    about, sets = found["unknown"], found["sets"]
    means = about["means"] and unpacked(about["means"], "<f2").reshape(classes, -1)
    counts = np.asarray(content["train_counts"], np.float64)
    images = np.asarray(content["class_images"], np.int64)
    scores = unpacked(sets[sets["score"]]["scores"])
    if not (len(counts) == len(images) == classes and len(scores) == images.sum()):
        raise ValueError("its lists have other lengths")
    if about["score"] not in unknown.SCORES or sets["score"] not in conformal.SCORES:
        raise ValueError(f"its scores are {about['score']!r} and {sets['score']!r}")
    return View(
        _number(found, "temperature", math.inf), about["score"], _number(content, "keep"),
        unpacked(about["right_scores"]), means, sets["score"], _number(sets, "weight"),
        _number(content, "coverage"), scores, np.repeat(np.arange(classes), images), counts,
    )  # fmt: skip


def _number(group: Mapping[str, Any], key: str, below: float = 1.0) -> float:
    """Returns a number of a group. Raises ValueError unless it is positive and below a bound."""
    value = float(group[key])
    if not 0 < value < below:
        raise ValueError(f"its {key} is {value}")
    return value


def _text(value: Any) -> str:
    return json.dumps(value, allow_nan=False, sort_keys=True)


def _sum(content: Mapping[str, Any]) -> int:
    return zlib.crc32(_text(dict(content)).encode())
