"""Answers as a table on the terminal, or as a file of CSV or JSON lines, by its ending."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lift_jax.errors import UserError
from lift_jax.output.plain import printable
from lift_jax.runs.answers.answering import Prediction
from lift_jax.storage.atomic import open_replacement
from lift_jax.storage.formats.csv_files import write_csv

CSV, JSONL = ".csv", ".jsonl"
SHOWN = 40  # images that are printed


@dataclass(frozen=True)
class Columns:
    """What is written of each answer.

    Attributes:
        ranks: number of likeliest classes.
        unknown: True for the answer, which may be "unknown".
        sets: True for the prediction set.
        classes: names of all classes, for their probabilities; empty without.
    """

    ranks: int
    unknown: bool = False
    sets: bool = False
    classes: Sequence[str] = ()


def check_ending(path: Path) -> None:
    """Raises UserError for a file of answers (--to) whose ending names none of its forms."""
    if path.suffix.lower() not in (CSV, JSONL):
        raise UserError(
            f"{path} (--to) ends in {path.suffix or 'nothing'!r}; expected {CSV}, a table, or "
            f"{JSONL}, lines of JSON."
        )


def write(path: Path, answers: Iterable[tuple[str, Prediction]], columns: Columns) -> None:
    """Writes a row or line for each answer with the name of its image, complete or not at all.

    It takes the answers one after the other, and so holds none of them.
    """
    if path.suffix.lower() != JSONL:
        rows = (_row(name, one, columns) for name, one in answers)
        write_csv(path, _header(columns), rows)
        return
    with open_replacement(path) as file:
        for name, one in answers:
            file.write(json.dumps(_object(name, one, columns), ensure_ascii=False) + "\n")


def _header(columns: Columns) -> list[str]:
    ranks = range(1, columns.ranks + 1)
    header = ["image", *(f"{kind}_{rank}" for rank in ranks for kind in ("class", "probability"))]
    header += ["error", *["answer", "unknown"] * columns.unknown, *["set"] * columns.sets]
    return header + [f"p_{name}" for name in columns.classes]


def _row(name: str, one: Prediction, columns: Columns) -> list[Any]:
    """Returns a row: classes with their probabilities, the error, and what else was asked."""
    pairs = list(zip(one.labels, one.probabilities, strict=True))
    pairs += [(None, None)] * (columns.ranks - len(pairs))
    row = [name, *(cell for pair in pairs for cell in pair), one.error]
    if columns.unknown:
        row += [one.answer, "" if one.error else "yes" if one.unknown else "no"]
    if columns.sets:
        members = one.prediction_set
        row.append(None if members is None else json.dumps(members, ensure_ascii=False))
    return row + (list(one.all_probabilities) or [None] * len(columns.classes))


def _object(name: str, one: Prediction, columns: Columns) -> dict[str, Any]:
    """Returns an object for a line; a letter that UTF-8 does not have becomes an escape."""
    found: dict[str, Any] = {"image": _letters(name), "error": _letters(one.error) or None}
    found["classes"] = [_letters(label) for label in one.labels]
    found["probabilities"] = list(one.probabilities)
    if columns.unknown:
        found |= {"answer": _letters(one.answer) or None, "unknown": one.unknown}
    if columns.sets:
        found["set"] = [_letters(label) for label in one.prediction_set or ()]
    if columns.classes:
        found["all_probabilities"] = list(one.all_probabilities)
    return found


def _letters(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def show(names: Sequence[str], found: Sequence[Prediction], console: Console) -> None:
    """Prints the first images with their classes; `found` need not hold more than those."""
    table = Table()
    table.add_column("image", overflow="fold")
    for rank in range(max((len(one.labels) for one in found), default=0) or 1):
        table.add_column("then" if rank else "class", overflow="fold")
    if with_sets := any(one.prediction_set is not None for one in found):
        table.add_column("set", overflow="fold")
    for name, one in zip(names[:SHOWN], found, strict=False):
        pairs = zip(one.labels, one.probabilities, strict=True)
        cells = [f"{label} {100 * share:.1f} %" for label, share in pairs] or ["cannot be read"]
        if one.unknown:
            cells[0] = f"unknown (nearest: {cells[0]})"
        if with_sets:
            cells += [""] * (len(table.columns) - 2 - len(cells))
            cells.append(", ".join(one.prediction_set or ()))
        table.add_row(*map(printable, (name, *cells)))
    console.print(table)
    if len(names) > SHOWN:
        console.print(f"... and {len(names) - SHOWN:,} more.")
