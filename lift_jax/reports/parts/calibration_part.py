"""The part of a report on calibration: how far the answers of the run can be trusted."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lift_jax.errors import UserError
from lift_jax.evaluation.metrics import GROUPS
from lift_jax.reports import page
from lift_jax.reports.figures.reliability import reliability_figure
from lift_jax.runs.answers import calibration_file
from lift_jax.runs.finished_run import Run
from lift_jax.runs.kept import result_files

NOTE = (
    "On the validation split, in percent. ECE: expected calibration error over 15 bins, lower is "
    "better. In the set: images whose prediction set holds the true class, measured on the images "
    "that gave its thresholds."
)


@dataclass(frozen=True)
class Part:
    """What the page shows: a figure, a table by group, and facts with their names."""

    figure: page.Image
    table: page.Table
    facts: list[tuple[str, str]]
    explanation: str = NOTE


def part(workdir: Path, out: Path) -> Part | None:
    """Returns the part of a run and writes its figure into `out`; None without calibration.json.

    A damaged one counts as none: `result_files.changed_files` has named it.
    """
    try:
        content = calibration_file.read(workdir)
    except UserError:
        return None
    if content is None:
        return None
    crops = content["crops"] is not None
    view = content["crops"] if crops else content["one_crop"]
    drawn = reliability_figure(*_reliability(view))
    figure = page.image(drawn, out / "report_calibration.png", "Accuracy by confidence")
    return Part(figure, _table(view), _facts(content, view, crops))


def missing(run: Run) -> str:
    """Returns a sentence for a run without a part: why there is none, and what to do.

    It is "" for a run that has tested nothing but the classifier before tuning.
    """
    if run.metrics.get("test") is None:
        return ""
    command = f"`lift-jax calibrate --run={run.workdir}`"
    if calibration_file.NAME in run.changed:
        return f"{calibration_file.NAME} is not what the run wrote; {command} replaces it."
    data = run.config.get("data", {})
    if run.metrics.get("validation") or data.get("val_share") or data.get("val_list"):
        return f"Not calibrated; {command} does it by the validation split."
    if (run.workdir / result_files.SUMS).exists():  # it would have been calibrated
        return f"Not calibrated: {calibration_file.NO_SPLIT}."
    return f"Not calibrated; {command} does it where the data have a validation split."


def _reliability(view: Mapping[str, Any]) -> list[dict[str, Mapping[str, Any]]]:
    """Returns the reliability of all images and of each group, before and after."""
    found = view["reliability"]
    names = ("overall", *GROUPS)
    return [{name: found[when][name] for name in names} for when in ("before", "after")]


def _table(view: Mapping[str, Any]) -> page.Table:
    """Returns the table of the groups."""
    (before, after), covered = _reliability(view), view["sets"]["covered"]
    rows = []
    for name, found in after.items():
        values = (sum(found["count"]), before[name]["ece"], found["ece"], covered[name])
        rows.append((name, [(page.number(value), False) for value in values]))
    return page.Table(["", "images", "ECE before", "ECE after", "in the set"], rows)


def _facts(
    content: Mapping[str, Any], view: Mapping[str, Any], crops: bool
) -> list[tuple[str, str]]:
    """Returns names and values of what predict goes by."""
    unknown, sets = view["unknown"], view["sets"]
    best = f"{view['best_temperature']:g}, the {view['at_bound']} that is tried"
    bound = f" (the best is {best}: too little data to find it)" if view["at_bound"] else ""
    return [
        ("Answers from", "several crops" if crops else "one crop"),
        ("Temperature", f"{view['temperature']:.3f}{bound}"),
        (
            "Unknown (--unknown)",
            f"by {unknown['score']} below {page.number(unknown['threshold'])}, which keeps "
            f"{content['keep']:.1%} of the right answers{_told_apart(unknown)}",
        ),
        (
            "Sets (--sets)",
            f"by {sets['score']} for {content['coverage']:.1%}: {sets['mean_size']:.2f} classes "
            "on average",
        ),
    ]


def _told_apart(unknown: Mapping[str, Any]) -> str:
    """Returns how well the score told held-out classes of the validation split from the others."""
    if not unknown["auroc"]:
        return ""
    area = unknown["auroc"][unknown["score"]]
    return f"; it tells held-out classes from others with an area of {area:.2f} under the ROC curve"
