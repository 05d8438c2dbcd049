"""The calibration of a run by its validation split: temperature, unknown images, prediction sets.

The test split plays no part. The methods are in `evaluation.trust`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from lift_jax.data.prior import expected_draws
from lift_jax.data.types import Dataset
from lift_jax.errors import UserError
from lift_jax.evaluation import metrics
from lift_jax.evaluation.evaluator import Outputs
from lift_jax.evaluation.trust import calibration, conformal, unknown
from lift_jax.parallel.mesh import put
from lift_jax.runs import folder, restored, results
from lift_jax.runs.answers import calibration_file
from lift_jax.runs.answers.answering import asked_share
from lift_jax.runs.answers.calibration_file import NO_SPLIT, VERSION, packed
from lift_jax.runs.weights import export
from lift_jax.settings.schema import Settings
from lift_jax.storage import disk
from lift_jax.training.checkpoint import weights_checksum
from lift_jax.training.setup import Setup, build
from lift_jax.training.state import State
from lift_jax.training.step import exact_products

KEEP, COVERAGE = 0.95, 0.9


def calibrate(run: Path, keep: float, coverage: float, console: Console) -> Path:
    """Writes calibration.json of the checkpoint that `lift-jax predict` takes; returns its path.

    Args:
        run: the run folder.
        keep: share of the right answers that stay when low scores are answered "unknown".
        coverage: share of the prediction sets that hold the true class.
        console: for what is found.

    Raises UserError if the run has no checkpoint or no validation split, or if its data or backbone
    are others now, and if another process writes in the folder.
    """
    asked_share("--keep", keep, KEEP)
    asked_share("--coverage", coverage, COVERAGE)
    tuned, saved = export.read_checkpoint(run)
    settings, _, _ = restored.read_settings(run, saved)
    with (
        folder.writing(run),
        disk.disk_errors(run),
        exact_products(),  # as where the run is tested
    ):
        setup = build(settings, console, fresh=False)
        folder.check_content(saved, results.describe(settings.written, setup), run)
        if setup.data.val is None:
            raise UserError(f"{run} cannot be calibrated: {NO_SPLIT}, or give photos/val/CLASS/.")
        leaves = {path: put(tuned[path], leaf.sharding) for path, leaf in setup.tuned.items()}
        state = State(jnp.int32(0), leaves, ())
        return write(settings, setup, state, run, console, keep, coverage)


def after_training(
    settings: Settings, setup: Setup, state: State, workdir: Path, console: Console
) -> None:
    """Writes calibration.json of a state, or prints a line if there is no validation split.

    It comes before the results of the test, without which a run does not count as finished.
    """
    if setup.data.val is None:
        console.print(f"Not calibrated: {NO_SPLIT}.")
    else:
        write(settings, setup, state, workdir, console)


def write(
    settings: Settings, setup: Setup, state: State, workdir: Path, console: Console,
    keep: float = KEEP, coverage: float = COVERAGE,
) -> Path:  # fmt: skip
    """Measures a state on the validation split and writes calibration.json; returns its path.

    Call it in every process. Raises UserError if no validation image can be read.
    """
    data = setup.data
    assert data.val is not None  # the caller has checked
    evaluator = results.make_evaluator(settings, setup, console)
    learned = expected_draws(data.counts, settings.train.sampling)
    tuned, images = results.tuned_candidate(setup, state), np.zeros(0, int)
    views: dict[str, Any] = {"one_crop": None, "crops": None}
    for name in ("one_crop", "crops")[: 1 + settings.test.tte]:
        outputs = evaluator.outputs(tuned, state.weights, data.val, crops=name == "crops")
        if not len(outputs.labels):
            raise UserError("No validation image can be read (data.on_bad_image=skip).")
        views[name] = measure(outputs, data, learned, settings.loss.name, keep, coverage)
        images = np.bincount(outputs.labels, minlength=len(data.counts))
        show(views[name], name, int(images.sum()), keep, console)
    content = {
        "version": VERSION, "split": "validation", "images": int(images.sum()), "keep": keep,
        "coverage": coverage, **views, "train_counts": learned.tolist(),
        "class_images": images.tolist(), "weights": weights_checksum(state.weights),
    }  # fmt: skip
    if jax.process_index() == 0:
        calibration_file.write(workdir, content)
    return workdir / calibration_file.NAME


def measure(
    outputs: Outputs, data: Dataset, learned: np.ndarray, loss: str, keep: float, coverage: float
) -> dict[str, Any]:
    """Returns the calibration of the answers from one view, as calibration.json holds it.

    `learned` is how often training draws each class, whose prior the classifier may have learned.
    """
    logits, _, labels = outputs
    found = calibration.fit_temperature(logits, labels)
    temperatures = {"before": 1.0, "after": found.applied}
    return {
        "temperature": found.applied,
        "best_temperature": found.value,
        "at_bound": found.at_bound,
        "loss": {
            when: calibration.log_likelihood_loss(logits, labels, t)
            for when, t in temperatures.items()
        },
        "reliability": {
            when: calibration.reliability_by_group(logits, labels, t, data.group_counts)
            for when, t in temperatures.items()
        },
        "unknown": measure_unknown(outputs, found.applied, keep),
        "sets": measure_sets(outputs, data, learned, loss, coverage),
    }


def measure_unknown(outputs: Outputs, temperature: float, keep: float) -> dict[str, Any]:
    """Returns the score by which unknown images are recognised, the reason, and its threshold."""
    logits, features, labels = outputs
    score, areas = unknown.choose_score(logits, features, labels, temperature)
    classes, means = logits.shape[1], None
    if score == "cosine":
        means = packed(unknown.class_means(features, labels, classes))
        every = np.ones(classes, bool)
        scores = unknown.cosines_left_out(features, labels, classes, every)
    else:
        scores = unknown.scores_of_logits(logits, score, temperature)
    right = np.sort(scores[logits.argmax(axis=1) == labels])
    threshold = unknown.threshold(right, keep)
    few = f"max_logit, for fewer than {unknown.FEWEST} classes have a validation image"
    return {
        "score": score,
        "rule": "largest mean area under the ROC curve, held-out classes of the validation split "
        "against the others" if areas else few,
        "auroc": areas,
        "threshold": threshold if len(right) else None,
        "right_scores": packed(right),
        "means": means,
    }  # fmt: skip


def measure_sets(
    outputs: Outputs, data: Dataset, learned: np.ndarray, loss: str, coverage: float
) -> dict[str, Any]:
    """Returns the thresholds of prediction sets for each score, and what the default one gives."""
    logits, _, labels = outputs
    classes, taken = len(data.counts), conformal.default_score(loss)
    found: dict[str, Any] = {"score": taken, "weight": conformal.WEIGHT}
    scores = {s: conformal.true_scores(logits, labels, s, learned) for s in conformal.SCORES}
    for score, of_images in scores.items():
        own = conformal.class_quantiles(of_images, labels, classes, coverage)
        found[score] = {
            "all": conformal.quantile(of_images, coverage),
            "classes": [float(f"{limit:.9g}") for limit in own],  # of float32
            "scores": packed(of_images[np.lexsort((of_images, labels))]),
        }
    limits = conformal.thresholds(scores[taken], labels, classes, coverage)

    def sizes(z: np.ndarray) -> np.ndarray:
        return (conformal.class_scores(z, taken, learned) <= limits).sum(axis=1)

    inside = scores[taken] <= limits[labels]
    members = metrics.groups(data.group_counts)
    rows = {"overall": np.ones(len(labels), bool)}
    rows |= {name: chosen[labels] for name, chosen in members.items()}
    return found | {
        "mean_size": float(calibration.by_rows(sizes, logits).mean()),
        "covered": {
            name: 100 * float(inside[chosen].mean()) if chosen.any() else None
            for name, chosen in rows.items()
        },
    }


def show(view: Mapping[str, Any], name: str, images: int, keep: float, console: Console) -> None:
    """Prints what the calibration of a view found."""
    ece = [view["reliability"][when]["overall"]["ece"] for when in ("before", "after")]
    sets, shown = view["sets"], "one crop" if name == "one_crop" else "several crops"
    console.print(
        f"Calibrated on {images:,} validation images, {shown}: temperature "
        f"{view['temperature']:.3f} (ECE {ece[0]:.1f} % before, {ece[1]:.1f} % after); unknown "
        f"by {view['unknown']['score']}, which keeps {keep:.1%} of the right answers; sets of "
        f"{sets['mean_size']:.1f} classes on average."
    )
    if view["at_bound"]:
        kept = " Predict leaves the probabilities as they are." * (view["temperature"] == 1)
        console.print(
            f"Warning: the best temperature is the {view['at_bound']} that is tried, "
            f"{view['best_temperature']:g}: the validation split is too small, too easy or too "
            f"hard to tell it.{kept}"
        )
