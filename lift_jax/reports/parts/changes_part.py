"""The parts of a report on accuracy by training images, and on gains and losses by class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from lift_jax.evaluation.insight.class_changes import Band, bands, changes
from lift_jax.reports import page
from lift_jax.reports.figures.by_images import accuracy_figure
from lift_jax.reports.figures.look import PALETTE
from lift_jax.reports.parts.class_table import gain
from lift_jax.runs.finished_run import Run

MOST = 10  # classes that gain, and that lose


@dataclass(frozen=True)
class Frequency:
    """A figure of accuracy by training images, and its means as a table."""

    figure: page.Image
    table: page.Table


@dataclass(frozen=True)
class Changes:
    """A sentence and the tables of the largest gains and losses, with their captions."""

    text: str
    tables: list[tuple[str, page.Table]]


def frequency(run: Run, key: str, out: Path) -> Frequency:
    """Returns the part of a run and writes its figure into `out`."""
    shown = dict.fromkeys(k for k in ("zero_shot", key) if k in run.results)
    lines = {k: bands(run.train_counts, run.accuracy[k]) for k in shown}
    named = {run.labels[k]: (line, k) for k, line in lines.items()}
    drawn = accuracy_figure(named, run.train_counts, run.accuracy[key], run.names)
    alt = "Accuracy by number of training images; the table below holds the means"
    figure = page.image(drawn, out / "report_frequency.png", alt)
    return Frequency(figure, _table(lines, run))


def _table(lines: Mapping[str, Sequence[Band]], run: Run) -> page.Table:
    """Returns the means by training images, with a column for each line."""
    rows: dict[tuple[int, int], dict[str, Band]] = {}
    for key, line in lines.items():
        for band in line:
            rows.setdefault((band.low, band.high), {})[key] = band
    cells = []
    for (low, high), found in sorted(rows.items()):
        name = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        classes = next(iter(found.values())).classes
        means = [page.number(found[k].mean if k in found else None) for k in lines]
        cells.append((name, [(text, False) for text in (f"{classes:,}", *means)]))
    return page.Table(["train images", "classes", *(run.labels[k] for k in lines)], cells)


def against_zero_shot(run: Run, key: str) -> Changes | None:
    """Returns the classes that gain and lose most against zero-shot; None without it."""
    if key == "zero_shot" or "zero_shot" not in run.results:
        return None
    before, after = run.accuracy["zero_shot"], run.accuracy[key]
    text = (
        f"{counted(before, after, run.labels[key], 'zero-shot')} Look at the classes that lose: "
        "their images or labels may differ from what their names say."
    )
    return Changes(text, tables(run, before, after))


def counted(
    before: Float[np.ndarray, " c"], after: Float[np.ndarray, " c"], name: str, base: str
) -> str:
    """Returns a sentence that counts the classes that gain and lose."""
    change = (after - before)[~np.isnan(after - before)]
    numbers = [int((change > 0).sum()), int((change < 0).sum()), int((change == 0).sum())]
    classes = "class" if numbers[0] == 1 else "classes"
    return (
        f"{name} is better than {base} for {numbers[0]:,} {classes}, worse for {numbers[1]:,} and "
        f"equal for {numbers[2]:,}."
    )


def tables(
    run: Run,
    before: Float[np.ndarray, " c"],
    after: Float[np.ndarray, " c"],
    names: tuple[str, str] = ("before", "after"),
) -> list[tuple[str, page.Table]]:
    """Returns the tables of the largest gains and losses with their captions; none is empty.

    `names` are the headings of the accuracies.
    """
    found = []
    for caption, classes in zip(
        ("Largest gains", "Largest losses"), changes(before, after, MOST), strict=True
    ):
        rows = []
        for c in classes.tolist():
            numbers = page.number(float(before[c])), page.number(float(after[c]))
            texts = gain(float(after[c] - before[c])), *numbers, f"{run.train_counts[c]:,}"
            rows.append((run.names[c], [(text, False) for text in texts]))
        if rows:
            heading = ["class", "change", *names, "train images"]
            found.append((caption, page.Table(heading, rows)))
    return found


def overlaid(runs: Mapping[str, Run], headlines: Mapping[str, str]) -> Figure:
    """Draws the accuracy of several runs by training images.

    `headlines` holds the result that stands for each.
    """
    lines = {}
    for i, (name, run) in enumerate(runs.items()):
        line = bands(run.train_counts, run.accuracy[headlines[name]])
        lines[f"{name}: {run.labels[headlines[name]]}"] = line, PALETTE[i % len(PALETTE)]
    return accuracy_figure(lines)


def between(
    runs: Mapping[str, Run], headlines: Mapping[str, str]
) -> tuple[list[tuple[str, list[tuple[str, page.Table]]]], str]:
    """Returns the gains and losses of each run against the first, and a note on those left out.

    A run of other classes than the first, or in another order, has none.
    """
    (base, first), *others = runs.items()
    found, left_out = [], []
    for name, run in others:
        if run.names != first.names:
            left_out.append(name)
            continue
        before, after = first.accuracy[headlines[base]], run.accuracy[headlines[name]]
        text = counted(before, after, name, base)
        found.append((text, tables(run, before, after, (base, name))))
    note = f"With other classes than {base}, and so not compared by class: {', '.join(left_out)}."
    return found, note if left_out else ""
