"""The table of a sweep's runs, for the terminal and as CSV, Markdown and figure."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure
from rich.table import Table

from lift_jax.evaluation.metrics import COLUMNS, GROUPS
from lift_jax.output.plain import markdown_cell, minus, printable
from lift_jax.reports import figure_file
from lift_jax.storage import atomic
from lift_jax.storage.formats.csv_files import write_csv
from lift_jax.sweeps.by_cell import Point, sweep_figure
from lift_jax.sweeps.heat_map import heat_map

TITLES = {
    "zero_shot": "zero-shot", "test": "", "test_adjusted": "adjusted", "test_tte": "with TTE",
    "test_tte_adjusted": "with TTE, adjusted",
    "val": "on validation images", "train": "on training images",
}  # fmt: skip
PANELS = {  # of the figure
    "zero_shot": "zero-shot", "test": "one crop", "test_adjusted": "one crop, adjusted",
    "test_tte": "TTE", "test_tte_adjusted": "TTE, adjusted",
    "val": "validation images", "train": "training images",
}  # fmt: skip
CSV = "sweep.csv"
PUBLISHED = ("overall", *GROUPS)  # what papers publish


@dataclass(frozen=True)
class Row:
    """A row of the table: one result of a cell over its finished seeds.

    Attributes:
        cell: name of the cell; "" for the zero-shot result that all cells share.
        result: a key of TITLES.
        tuned, head: number of tuned parameters and of head parameters.
        values: percent by column and seed; None if the group has no classes.
        published: published accuracies of exactly this run in percent, by column.
    """

    cell: str
    result: str
    tuned: int
    head: int
    values: Mapping[str, Sequence[float | None]]
    published: Mapping[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Returns the name of the row: the cell with the kind of result."""
        return " ".join(filter(None, (self.cell, TITLES[self.result])))

    @property
    def runs(self) -> int:
        """Returns the number of finished seeds."""
        return len(self.values["overall"])

    def mean(self, column: str) -> float | None:
        """Returns the mean of the seeds in percent; None if the group has no classes."""
        values = self.values[column]
        return None if None in values else statistics.fmean(values)  # type: ignore[arg-type]

    def std(self, column: str) -> float | None:
        """Returns the standard deviation of the seeds as a sample; None for a single seed."""
        values = self.values[column]
        return None if None in values or len(values) < 2 else statistics.stdev(values)  # type: ignore[arg-type]

    def difference(self, column: str) -> float | None:
        """Returns an accuracy minus the published one in percent; None if there is none."""
        mean, published = self.mean(column), self.published.get(column)
        return None if published is None or mean is None else mean - published


def texts(table: Sequence[Row]) -> list[list[str]]:
    """Returns the table as texts: its headings, then its rows."""
    columns = headings(table)
    return [columns, *(texts_of(row)[: len(columns)] for row in table)]


def headings(table: Sequence[Row]) -> list[str]:
    """Returns the columns; those of published numbers only where a row has some."""
    columns = ["", "tuned", *COLUMNS]
    if not any(row.published for row in table):
        return columns
    shots = any(row.published.get(column) for row in table for column in GROUPS)
    groups = f" ({' / '.join(GROUPS)})" if shots else ""
    return [*columns, f"published{groups}", "difference"]


def texts_of(row: Row) -> list[str]:
    """Returns a row of the table as text, the published number and the difference last."""

    def number(column: str) -> str:
        mean, std = row.mean(column), row.std(column)
        if mean is None:
            return "–"
        return f"{mean:.2f}" if std is None else f"{mean:.1f} ± {std:.1f}"

    published = _with_groups({c: row.published.get(c) for c in PUBLISHED}, "")
    difference = _with_groups({c: row.difference(c) for c in PUBLISHED}, "+")
    return [row.name, f"{row.tuned:,}", *map(number, COLUMNS), published, difference]


def _with_groups(values: Mapping[str, float | None], sign: str) -> str:
    """Returns overall as text, with many, medium and few in brackets where there are some."""
    groups = [values[column] for column in GROUPS]
    if values["overall"] is None:
        return ""
    overall = minus(f"{values['overall']:{sign}.1f}")
    if all(value is None for value in groups):
        return overall
    parts = ("–" if value is None else minus(f"{value:{sign}.1f}") for value in groups)
    return f"{overall} ({' / '.join(parts)})"


def rich_table(title: str, table: Sequence[Row]) -> Table:
    """Returns the table of a sweep for the terminal."""
    made = Table(title=f"{title}: accuracy in %", title_justify="left")
    columns, *rows = texts(table)
    for i, heading in enumerate(columns):
        made.add_column(heading, justify="right" if i else "left", overflow="fold")
    for row in rows:
        made.add_row(*map(printable, row))
    return made


def write(
    workdir: Path, title: str, table: Sequence[Row], notes: Sequence[str],
    crossed: str = "", axis: str = "",
) -> None:  # fmt: skip
    """Writes sweep.csv and sweep.md, and sweep.png if the table has a row.

    `crossed` says what the sweep crosses with learning rates (`cells.CROSSED`), "" for others;
    `axis` is the setting in which the cells differ, "" if there is no such one.
    """
    header = ["cell", "result", "runs", "tuned_params", "head_params"]
    header += [name for key in COLUMNS for name in (key, f"{key}_std")]
    compared = ["published", "difference"]
    compared += [name for key in GROUPS for name in (f"{key}_published", f"{key}_difference")]
    write_csv(
        workdir / CSV,
        header + compared,
        (
            [row.cell, row.result, row.runs, row.tuned, row.head]
            + [value for key in COLUMNS for value in (row.mean(key), row.std(key))]
            + [v for key in PUBLISHED for v in (row.published.get(key), row.difference(key))]
            for row in table
        ),
    )
    columns, *rows = texts(table)
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    with atomic.open_replacement(workdir / "sweep.md") as file:
        file.write(f"{markdown_cell(title)}: accuracy in %\n\n")
        file.writelines(f"| {' | '.join(map(markdown_cell, line))} |\n" for line in lines)
        file.writelines(f"\n{note}\n" for note in notes)
    if table:
        figure_file.write(figure(title, table, crossed, axis), workdir / "sweep.png")


def figure(title: str, table: Sequence[Row], crossed: str = "", axis: str = "") -> Figure:
    """Draws a panel for each kind of result; a shared zero-shot result stands in the title.

    `write` describes `crossed` and `axis`.
    """
    cells = list(dict.fromkeys(row.cell for row in table if row.cell))
    panels: dict[str, dict[str, dict[str, Point]]] = {}
    for row in table:
        if row.cell:
            points = {key: (row.mean(key), row.std(key)) for key in COLUMNS}
            panels.setdefault(PANELS[row.result], {})[row.cell] = points
    alone = [f"zero-shot {texts_of(row)[2]} overall" for row in table if not row.cell]
    full_title = "; ".join([title, *alone])
    if crossed and cells:
        return heat_map(full_title, crossed, cells, panels)
    return sweep_figure(full_title, cells, panels, axis)
