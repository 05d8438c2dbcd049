"""Turns run folders into pages to read."""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lift_jax.errors import UserError
from lift_jax.reports import figures
from lift_jax.runs import folder
from lift_jax.runs.folder import Run
from lift_jax.runs.progress import WAIT_HINT
from lift_jax.storage.atomic import replacing

COLUMNS = {  # of the table of results: key and heading
    "overall": "overall",
    "many": "many",
    "medium": "medium",
    "few": "few",
    "mean": "mean",
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
LOWEST = 10  # classes listed

STYLE = """
body { font: 16px/1.55 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; color: #1f2933;
  background: #f4f6f8; margin: 0; }
main { max-width: 64rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
h1 { font-size: 1.75rem; margin: 0; } h2 { font-size: 1.15rem; margin: 0 0 .8rem; }
.sub { color: #52606d; margin: .3rem 0 1.6rem; }
section { background: #fff; border: 1px solid #e1e6eb; border-radius: 10px;
  padding: 1.3rem 1.5rem; margin: 1.1rem 0; overflow-x: auto; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: 1rem; }
.card { background: #fff; border: 1px solid #e1e6eb; border-radius: 10px; padding: 1rem 1.2rem; }
.card b { display: block; font-size: 1.6rem; line-height: 1.25; }
.card span, .note { color: #52606d; font-size: .9rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums;
  font-size: .92rem; }
th { color: #52606d; font-weight: 600; }
td, th { padding: .38rem .45rem; text-align: right; border-bottom: 1px solid #edf0f3;
  white-space: nowrap; }
td:first-child, th:first-child { text-align: left; padding-left: 0; white-space: normal;
  min-width: 9.5rem; }
table.plain td { text-align: left; white-space: normal; } td.best { font-weight: 700; }
img { width: 100%; height: auto; display: block; } .note { margin: .8rem 0 0; }
.config { columns: 18rem; column-gap: 2.5rem; }
.config div { break-inside: avoid; margin-bottom: 1rem; } .config b { color: #52606d; }
"""


def write(workdir: str | Path) -> Path:
    """Writes report.html and report_*.png into a run folder, and returns the page's path."""
    run = folder.load(workdir)
    figure = figures.class_figure(run.accuracy, run.labels, run.train_counts, run.groups, run.names)
    name = run.workdir.resolve().name
    parts = [
        f"<h1>{html.escape(name)}</h1><p class=sub>{html.escape(run.title)}</p>",
        _cards(run),
        _section("Results", _results({name: run}) + _absent(run)),
        _section(
            "Accuracy by class",
            _embed(figure, run.workdir / "report_classes.png", "Accuracy of each class"),
        ),
        _section("Lowest classes" if len(run.names) > LOWEST else "Classes", _lowest(run)),
    ]
    if run.steps:
        figure = figures.training_figure(run.steps)
        image = _embed(figure, run.workdir / "report_training.png", "Loss and learning rate")
        parts.append(_section("Training", image))
    parts.append(_section("Run", _facts(run)))
    parts.append(_section("Settings", _config(run.config)))
    return _page(run.workdir / "report.html", name, parts)


def compare(workdirs: Sequence[str | Path], out: str | Path) -> Path:
    """Writes report_compare.html and .png of several runs into `out`, and returns the page's path.

    The bars show each run's best way of testing: with TTE, else plain, else zero-shot.
    """
    paths = [Path(workdir).resolve() for workdir in workdirs]
    unique = len({path.name for path in paths}) == len(paths)
    runs = {path.name if unique else str(path): folder.load(path) for path in paths}
    best = {}
    for name, run in runs.items():
        key = list(run.results)[-1]
        best[f"{name}: {run.labels[key]}"] = run.results[key]
    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot make the folder (--out): {error.strerror}.") from error
    image = _embed(
        figures.comparison_figure(best), out / "report_compare.png", "Accuracy of the runs"
    )
    subtitles = "".join(
        f"<tr><td>{html.escape(name)}<td>{html.escape(run.title)}"
        f"<td>{run.metrics['tuned_params']:,} tuned<td>{_duration(run.metrics['seconds'])}"
        for name, run in runs.items()
    )
    parts = [
        f"<h1>{len(runs)} runs</h1><p class=sub>Top-1 accuracy in %</p>",
        _section("Results", _results(runs)),
        _section("Best way of testing of each run", image),
        _section("Runs", f"<table class=plain>{subtitles}</table>"),
    ]
    return _page(out / "report_compare.html", "Comparison", parts)


def _page(path: Path, title: str, parts: Sequence[str]) -> Path:
    with replacing(path) as file:
        file.write(
            "<!doctype html><html lang=en><meta charset=utf-8>"
            '<meta name=viewport content="width=device-width, initial-scale=1">'
            f"<title>{html.escape(title)}</title><style>{STYLE}</style>"
            f"<main>{''.join(parts)}</main></html>\n"
        )
    return path


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>"


def _embed(figure: Figure, path: Path, alt: str) -> str:
    """Writes a figure as PNG and returns it as an image inside the page."""
    text = base64.b64encode(figures.write(figure, path)).decode()
    return f'<img alt="{alt}" src="data:image/png;base64,{text}">'


def _results(runs: Mapping[str, Run]) -> str:
    """Returns the table of all summaries, the best of each column in bold."""
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
    text = "<tr><th>" + "".join(f"<th>{heading}" for heading in COLUMNS.values())
    for name, summary in rows:
        text += f"<tr><td>{html.escape(name)}"
        for key in COLUMNS:
            value = summary[key]
            first = key in best and value is not None and round(value, 2) == best[key]
            text += f"<td{' class=best' if first else ''}>{_number(value)}"
    return f"<table>{text}</table><p class=note>{NOTE}</p>"


def _absent(run: Run) -> str:
    names = [name for name, n in zip(run.names, run.test_counts, strict=True) if n == 0]
    if not names:
        return ""
    shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    return f"<p class=note>Without a test image, so in no class mean: {html.escape(shown)}.</p>"


def _lowest(run: Run) -> str:
    """Returns the classes of the lowest accuracy under the best way of testing."""
    key = list(run.results)[-1]
    order = np.argsort(run.accuracy[key], kind="stable")[:LOWEST]
    head = "".join(f"<th>{run.labels[k]}" for k in run.results)
    text = f"<tr><th>class<th>group<th>train images<th>test images{head}"
    for c in order:
        text += (
            f"<tr><td>{html.escape(run.names[c])}<td>{run.groups[c]}<td>{run.train_counts[c]:,}"
            f"<td>{run.test_counts[c]:,}"
        )
        text += "".join(f"<td>{_number(float(run.accuracy[k][c]))}" for k in run.results)
    return f"<table>{text}</table><p class=note>Every class: per_class.csv.</p>"


def _cards(run: Run) -> str:
    key, summary = list(run.results.items())[-1]
    cards = [
        (f"{_number(summary['overall'])} %", f"overall, {run.labels[key]}"),
        (f"{_number(summary['few'])} %", "few-shot classes"),
        (f"{run.metrics['tuned_params']:,}", f"tuned parameters ({run.tuned_share:.2%})"),
    ]
    if run.steps:
        cards.append((_duration(run.metrics["seconds"]), "of training"))
    text = "".join(
        f"<div class=card><b>{value.replace('– %', '–')}</b><span>{label}</span></div>"
        for value, label in cards
    )
    return f"<div class=cards>{text}</div>"


def _facts(run: Run) -> str:
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
        facts["Training time"] = _duration(metrics["seconds"])
        facts["Images a second"] = f"{metrics['images_per_second']:,.0f}"
        facts["Waiting for data"] = f"{wait:.0%} of the time" + (
            ": prepare the images (--prepare), or raise data.workers" if wait > WAIT_HINT else ""
        )
    rows = "".join(f"<tr><td>{name}<td>{value}" for name, value in facts.items())
    return f"<table class=plain>{rows}</table>"


def _config(config: Mapping[str, Any]) -> str:
    """Returns the settings, a block for each group; settings without a group come first."""
    alone = {key: value for key, value in config.items() if not isinstance(value, dict)}
    groups = {"": alone} | {k: value for k, value in config.items() if isinstance(value, dict)}
    text = ""
    for group, values in groups.items():
        text += f"<div><b>{html.escape(group)}</b><table class=plain>"
        for key, value in values.items():
            shown = value if isinstance(value, str) else json.dumps(value)
            text += f"<tr><td>{html.escape(key)}<td>{html.escape(shown)}"
        text += "</table></div>"
    return f"<div class=config>{text}</div>"


def _number(value: float | None) -> str:
    if value is None or value != value:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.2f}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
