"""The table of results on the terminal, and the name of each result in it."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from lift_jax.evaluation.metrics import COLUMNS
from lift_jax.output.plain import printable

SPLITS = {"train": "training", "val": "validation"}


def result_names(method: str) -> dict[str, str]:
    """Returns the names of a run's results in tables and figures, by key of metrics.json.

    `method` is that of the run (`words.method`).
    """
    return {
        "zero_shot": "zero-shot", "test": method, "test_adjusted": f"{method}, adjusted",
        "test_tte": f"{method} with TTE", "test_tte_adjusted": f"{method} with TTE, adjusted",
    }  # fmt: skip


def on_split(name: str, split: str) -> str:
    """Returns the name of a result on the training or validation images (test.split)."""
    return f"{name} on {SPLITS[split]} images"


def results_table(rows: Mapping[str, Mapping[str, Any] | None]) -> Table:
    """Returns a table of summaries (from `metrics.summarise`) by row name, without None rows."""
    table = Table(title="Accuracy in %", title_justify="left")
    table.add_column("")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for name, summary in rows.items():
        if summary is not None:
            values = [summary[column] for column in COLUMNS]
            texts = ("–" if value is None else f"{value:.2f}" for value in values)
            table.add_row(printable(name), *texts)
    return table
