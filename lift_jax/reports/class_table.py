"""The table of all classes, which a script searches and sorts."""

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from lift_jax.output.plain import printable
from lift_jax.reports import page
from lift_jax.runs.folder import Run

# Most classes that the page holds as rows. Of more it holds the lowest, and all as data.
WHOLE = 1000
LOWEST = 50  # rows of a larger table
NOTE = "per_class.csv holds the same numbers."


@dataclass(frozen=True)
class ClassTable:
    """What the page shows: the rows of texts, and all of them as data where there are more."""

    caption: str
    headings: list[str]
    rows: list[list[str]]
    data: Markup | None
    number: str
    note: str = NOTE


def table(run: Run, key: str) -> ClassTable:
    """Returns the table of a run, the classes with the lowest accuracy by a result first."""
    headings = ["class", "group", "train images", "test images"]
    headings += [run.labels[each] for each in run.results]
    columns = [
        [printable(name) for name in run.names], run.groups,
        [f"{n:,}" for n in run.train_counts], [f"{n:,}" for n in run.test_counts],
        *([page.number(value) for value in run.accuracy[each].tolist()] for each in run.results),
    ]  # fmt: skip
    if key != "zero_shot" and "zero_shot" in run.results:
        headings.append("gain on zero-shot")
        columns.append([gain(x) for x in (run.accuracy[key] - run.accuracy["zero_shot"]).tolist()])
    order = np.argsort(run.accuracy[key], kind="stable").tolist()
    rows = [[column[c] for column in columns] for c in order]
    large = len(rows) > WHOLE
    return ClassTable(
        "Accuracy of each class in percent", headings, rows[:LOWEST] if large else rows,
        page.embedded(rows) if large else None, f"{len(rows):,}",
    )  # fmt: skip


def gain(value: float) -> str:
    """Returns a difference with its sign, a dash for NaN."""
    return "–" if value != value else f"{value:+.2f}"
