"""The description of an exported classifier: what its use needs to know, as plain data."""

import json
import math
from typing import Any

import lift_jax
from lift_jax.data.images.decode import Decoding
from lift_jax.data.images.views import TestTransform
from lift_jax.export.licences import licence
from lift_jax.runs.answers.calibration_file import View
from lift_jax.runs.finished_run import TITLE
from lift_jax.runs.restored import RestoredRun

Size = tuple[int, int]  # height and width


def describe(
    found: RestoredRun, view: TestTransform, how: Decoding, size: Size | None,
    calibrated: View | None,
) -> dict[str, Any]:  # fmt: skip
    """Returns the description of the classifier of a run.

    Args:
        found: the run as it was restored.
        view: the test view.
        how: how images are decoded.
        size: size of the images that the classifier resizes; None if it takes views.
        calibrated: the calibration of the run, if there is one.
    """
    s, vision = found.settings, found.backbone.config.vision
    return {
        "title": " · ".join(str(getattr(getattr(s, group), key)) for group, key in TITLE),
        "class_names": list(found.class_names),
        "backbone": s.model.backbone,
        "licence_of_weights": licence(s.model.backbone),
        "lift_jax": lift_jax.__version__,
        "temperature": temperature_of(calibrated),
        **_unknown(calibrated),
        "resolution": vision.resolution,
        "mean": list(vision.mean),
        "std": list(vision.std),
        **_resize(view, how, size),
    }


def temperature_of(calibrated: View | None) -> float:
    """Returns the temperature by which logits are divided: 1 without a calibration."""
    return calibrated.temperature if calibrated else 1.0


def as_texts(about: dict[str, object]) -> dict[str, str]:
    """Returns metadata as files of tensors hold it: texts, other values as JSON."""
    return {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for key, value in about.items()
    }


def _resize(view: TestTransform, how: Decoding, size: Size | None) -> dict[str, Any]:
    """Returns how an image file becomes the input of the function."""
    short, name = min(view.cuts(view.res, view.res)[0].size), view.interpolation
    steps = f"short side to {short} pixels by Pillow's {name}, then the centre of {view.res}"
    height, width = (view.res, view.res) if size is None else size
    return {
        "input": f"uint8 RGB images [batch of any size, {height}, {width}, 3]",
        "resize": ("before the model: " if size is None else "inside the model: ") + steps,
        "resize_inside": size is not None,
        "short_side": short,
        "filter": name,
        "exif": how.exif,
    }


def _unknown(calibrated: View | None) -> dict[str, Any]:
    """Returns the threshold below which an image is unknown, if its score is one of the logits."""
    if calibrated is None or calibrated.unknown_score == "cosine":
        return {}
    threshold = calibrated.unknown_threshold(calibrated.keep)
    return {
        "unknown_score": calibrated.unknown_score,
        "unknown_below": threshold if math.isfinite(threshold) else None,
        "unknown_keep": calibrated.keep,
    }
