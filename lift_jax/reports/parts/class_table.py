"""The table of all classes, which a script searches and sorts."""

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from lift_jax.output.plain import minus, printable
from lift_jax.reports import page
from lift_jax.runs.finished_run import Run

# Up to this many classes are rows of the page. Of more, the lowest are rows, and all are data.
WHOLE = 1000
LOWEST = 50  # rows of a larger table
NOTE = "per_class.csv holds the same numbers."


@dataclass(frozen=True)
class ClassTable:
    """What the page shows: the rows of texts, and all of them as data where there are more.

    The second column is the one by which the rows are sorted; `texts` are columns without numbers.
    """

    caption: str
    headings: list[str]
    rows: list[list[str]]
    data: Markup | None
    number: str
    texts: tuple[str, ...] = ("class", "group")
    note: str = NOTE


def table(run: Run, key: str) -> ClassTable:
    """Returns the table of a run, the classes with the lowest accuracy by a result first."""
    columns = {"class": [*map(printable, run.names)], run.labels[key]: _percent(run, key)}
    if key != "zero_shot" and "zero_shot" in run.results:
        change = run.accuracy[key] - run.accuracy["zero_shot"]
        columns["gain on zero-shot"] = [gain(value) for value in change.tolist()]
    columns |= {
        "train images": [f"{n:,}" for n in run.train_counts],
        "test images": [f"{n:,}" for n in run.test_counts],
        "group": run.groups,
    }
    columns |= {run.labels[other]: _percent(run, other) for other in run.results if other != key}
    order = np.argsort(run.accuracy[key], kind="stable").tolist()
    rows = [[column[c] for column in columns.values()] for c in order]
    large = len(rows) > WHOLE
    return ClassTable(
        "Accuracy of each class in percent", list(columns), rows[:LOWEST] if large else rows,
        page.embedded(rows) if large else None, f"{len(rows):,}",
    )  # fmt: skip


def _percent(run: Run, key: str) -> list[str]:
    return [page.number(value) for value in run.accuracy[key].tolist()]


def gain(value: float) -> str:
    """Returns a difference with its sign, a dash for NaN."""
    return "–" if value != value else minus(f"{value:+.2f}")
