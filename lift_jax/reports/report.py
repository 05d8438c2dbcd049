"""The report of a run folder: an HTML page with figures."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lift_jax.errors import DiskError, UserError
from lift_jax.evaluation.metrics import COLUMNS as FIRST
from lift_jax.evaluation.tables import on_split
from lift_jax.reports import page
from lift_jax.reports.figures.by_class import class_figure
from lift_jax.reports.figures.training import training_figure
from lift_jax.reports.parts import (
    calibration_part,
    changes_part,
    class_table,
    consistency_part,
    insight_part,
)
from lift_jax.runs import finished_run
from lift_jax.runs.finished_run import Run
from lift_jax.runs.kept import examples, kept_file, predictions, result_files
from lift_jax.runs.phases import stages
from lift_jax.runs.phases.progress import WAIT_HINT
from lift_jax.settings import words
from lift_jax.storage import atomic, disk, lock
from lift_jax.storage.addresses import is_remote
from lift_jax.storage.names import expand_user

COLUMNS = {  # of the table of results: key and heading
    **{name: name for name in FIRST},
    "hmean": "hmean",
    "gmean": "gmean",
    "worst": "worst",
    "macro_f1": "F1",
    "ece": "ECE",
    "images": "images",
}
NOTE = (
    "Percent. Many: more than 100 training images, medium: 20 to 100, few: under 20. Mean, hmean, "
    "gmean, worst: arithmetic, harmonic and geometric mean and minimum over the classes. F1: mean "
    "over the classes. ECE: expected calibration error, lower is better. TTE: test-time ensembling "
    "of several crops. Adjusted: by the training prior, as much as is best on the validation split."
)
SECTIONS = (  # of the page: the part that it needs, its id and its title
    ("results", "results", "Results"),
    ("class_figure", "accuracy", "Classes"),
    ("frequency", "frequency", "Frequency"),
    ("changes", "changes", "Gains and losses"),
    ("insight", "pairs", "Confusions"),
    ("insight", "mistakes", "Mistakes"),
    ("insight", "labels", "Labels"),
    ("calibration", "trust", "Trust"),
    ("consistency", "consistency", "Tuning"),
    ("classes", "all-classes", "All classes"),
    ("training_figure", "training", "Training"),
    ("", "run", "Run"),
    ("", "settings", "Settings"),
)


def write(workdir: str | Path, out: str | Path = "", address: str = "") -> Path:
    """Writes report.html and report_*.png of a run; returns the page's path.

    They are written into `out`, by default the run folder. If `workdir` is a local copy
    (`runs.remote`), the page bears the name of the run at its `address`. Raises UserError if a file
    of the run is missing or broken, if `out` cannot be made, or if another process writes there.
    """
    run = load(workdir)
    to = disk.make_folder(expand_user(out), "--out") if out else run.workdir
    try:
        with disk.disk_errors(to), lock.one_writer(to):
            return _write(run, to, name_of(address or run.workdir))
    except DiskError as error:
        raise DiskError(
            f"No report: {error} The run itself is complete and its results are kept; "
            f"`lift-jax report {workdir}` writes the report, with --out=FOLDER to another folder."
        ) from error


def load(workdir: str | Path) -> Run:
    """Returns a finished run, and warns of files that are not what it wrote.

    Raises UserError if a file of the run is missing or broken.
    """
    run = finished_run.load(workdir)
    if run.changed:
        note = result_files.changed_note(run.workdir, run.changed)
        atomic.warn(f"{note} Run the training command again, which repairs it.")
    return run


def name_of(workdir: str | Path) -> str:
    """Returns the name of a run, which is that of its folder, here or at an address."""
    if is_remote(workdir):
        return str(workdir).rstrip("/").rpartition("/")[2]
    return expand_user(workdir).resolve().name


def _write(run: Run, out: Path, name: str) -> Path:
    """Writes the page of a run and its figures into a folder; returns the page's path."""
    key, reason = headline(run)
    drawn = class_figure(run.accuracy, run.labels, run.train_counts, run.groups, run.names)
    of_classes = page.image(drawn, out / "report_classes.png", "Accuracy of each class")
    of_training = None
    if run.steps:
        drawn, path = training_figure(run.steps), out / "report_training.png"
        of_training = page.image(drawn, path, "Loss and learning rate")
    insight, missing = _insight(run, key)
    shown = {
        "results": results_table({name: run}), "class_figure": of_classes,
        "frequency": changes_part.frequency(run, key, out),
        "changes": changes_part.against_zero_shot(run, key), "insight": insight,
        "missing": missing, "calibration": calibration_part.part(run.workdir, out),
        "uncalibrated": calibration_part.missing(run),
        "consistency": consistency_part.part(run, out),
        "classes": class_table.table(run, key), "training_figure": of_training,
        "training": words.training(run.config), "stages": bool(stages.seconds(run.workdir)),
    }  # fmt: skip
    return page.write(
        out / "report.html", "report.html", "classes.js", title=name, heading=name,
        subtitle=run.title, cards=_cards(run, key), reason=reason, explanation=NOTE,
        absent=_absent_classes(run), facts=_facts(run), settings=_settings(run.config),
        contents=[(link, title) for part, link, title in SECTIONS if shown.get(part, True)],
        **shown,
    )  # fmt: skip


def _insight(run: Run, key: str) -> tuple[insight_part.Part | None, str]:
    """Returns the part on single answers, or None and a line that says how to get it.

    A file that is damaged or of another test counts as none: a warning has named it.
    """
    kept, shown = _own(run, predictions), _own(run, examples)
    found = insight_part.part(run, key, kept, shown) if kept is not None else None
    if found is None:
        return None, f"This run keeps no answers to single images. {kept_file.REMEDY}"
    return found, ""


def _own(run: Run, kind: Any) -> Any:
    """Returns what a run keeps of a kind (a module of `runs.kept`), None without its own."""
    try:
        return None if kind.NAME in run.changed else kind.read(run.workdir)
    except UserError:
        return None


# --- the result that stands for a run ---


def headline(run: Run) -> tuple[str, str]:
    """Returns the key of the result that stands for a run, and a note on the choice or "".

    The test-time ensemble stands for a run that has one, unless it does worse than one crop on the
    validation split. The test split never chooses: if the ensemble is worse there and there is no
    validation split, only the note says so.
    """
    key = list(run.results)[-1]
    single = predictions.ONE_CROP.get(key)
    if single is None or single not in run.results:
        return key, ""
    validated = _validation_means(run)
    if validated is not None:
        if predictions.headline_result(list(run.results), validated) == key:
            return key, ""
        return single, (
            "The headline is that of one crop: on the validation split the test-time ensemble "
            f"does worse ({_against(validated['test_tte'], validated['test'])})."
        )
    ensemble, one = run.results[key]["mean"], run.results[single]["mean"]
    if ensemble is None or one is None or ensemble >= one:
        return key, ""
    return key, (
        "On the test split the test-time ensemble does worse than one crop "
        f"({_against(ensemble, one)}). The test split must not choose between them, so "
        "the headline stays the ensemble's. A validation split would decide: "
        "data.val_share=0.1 holds one out."
    )


def _against(ensemble: float, one_crop: float) -> str:
    return f"{ensemble:.2f} against {one_crop:.2f} %, mean over the classes"


def _validation_means(run: Run) -> dict[str, float] | None:
    """Returns the mean accuracies on the validation split with one crop and with the ensemble.

    Returns None for a run without them. Raises UserError if they are not two numbers.
    """
    means = run.metrics.get("validation")
    if means is None:
        return None
    keys = ("test", "test_tte")
    if not isinstance(means, dict) or not all(isinstance(means.get(k), int | float) for k in keys):
        raise UserError(
            f"{run.workdir / result_files.METRICS}: expected validation to hold the numbers test "
            f"and test_tte, found {means!r}. Test again: --mode=evaluate."
        )
    return means


# --- the parts of a page ---


def _cards(run: Run, key: str) -> list[tuple[str, str]]:
    """Returns values and what they are: accuracies of one result, tuned parameters, time."""
    summary = run.results[key]
    values = [
        (page.percent(summary["overall"]), f"overall, {run.labels[key]}"),
        (page.percent(summary["few"]), "few-shot classes"),
        (f"{run.metrics['tuned_params']:,}", f"tuned parameters ({run.tuned_share:.2%})"),
    ]
    if run.steps:
        values.append((page.duration(run.metrics["seconds"]), "of training"))
    return values


def results_table(runs: Mapping[str, Run]) -> page.Table:
    """Returns the table of all results of runs by name.

    It marks the best value on test images in each column. Results on other images stand at the end.
    """
    rows = [
        (run.labels[key] if len(runs) == 1 else f"{name}: {run.labels[key]}", summary)
        for name, run in runs.items()
        for key, summary in run.results.items()
    ]
    best = {}
    for key in COLUMNS:
        values = {round(summary[key], 2) for _, summary in rows if summary[key] is not None}
        if len(values) > 1 and key != "images":
            best[key] = min(values) if key == "ece" else max(values)

    def cell(key: str, value: float | None) -> tuple[str, bool]:
        is_best = key in best and value is not None and round(value, 2) == best[key]
        return page.number(value), is_best

    cells = [(name, [cell(key, summary[key]) for key in COLUMNS]) for name, summary in rows]
    for name, run in runs.items():
        for split, summary in run.splits.items():
            label = on_split(run.labels["test"], split)
            values = [(page.number(summary[key]), False) for key in COLUMNS]
            cells.append((label if len(runs) == 1 else f"{name}: {label}", values))
    return page.Table(["", *COLUMNS.values()], cells)


def _absent_classes(run: Run) -> str:
    """Returns a note that names the classes without a test image, "" if there are none."""
    names = [name for name, n in zip(run.names, run.test_counts, strict=True) if n == 0]
    if not names:
        return ""
    shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    return f"Without a test image, so in no class mean: {shown}."


def _facts(run: Run) -> list[tuple[str, str]]:
    """Returns names and values of sizes and speeds."""
    metrics = run.metrics
    facts = {
        "Tuned parameters": f"{metrics['tuned_params']:,} ({run.tuned_share:.2%} of all)",
        "Head parameters": f"{metrics['head_params']:,}",
        "Frozen parameters": f"{metrics['frozen_params']:,}",
        "Classes": f"{len(run.names):,}",
        "Training images": f"{run.train_counts.sum():,} ({run.train_counts.min():,} to "
        f"{run.train_counts.max():,} a class)",
    }
    if run.steps:
        wait = float(np.mean([step.wait for step in run.steps]))
        facts["Steps"] = f"{metrics['steps']:,}"
        facts["Training time"] = page.duration(metrics["seconds"])
        facts["Images a second"] = f"{metrics['images_per_second']:,.0f}"
        facts["Waiting for data"] = f"{wait:.0%} of the time" + (
            ": prepare the images (--prepare), or raise data.workers" if wait > WAIT_HINT else ""
        )
    return list(facts.items())


def _settings(config: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Returns names and values of the settings by group; those without a group come first."""
    alone = {key: value for key, value in config.items() if not isinstance(value, dict)}
    groups = {"": alone} | {k: value for k, value in config.items() if isinstance(value, dict)}
    return [
        (group, [(k, v if isinstance(v, str) else json.dumps(v)) for k, v in values.items()])
        for group, values in groups.items()
    ]
