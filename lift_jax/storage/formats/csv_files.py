"""CSV tables of results: any text comes back as it was, and no text is live in a spreadsheet."""

import csv
import io
import math
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lift_jax.errors import UserError
from lift_jax.storage.atomic import open_replacement
from lift_jax.storage.reading import RUN_BYTES, decode, read_bytes

# A spreadsheet evaluates a cell that begins with one of these characters; a quote before it makes
# the cell text (OWASP, "CSV Injection"). A text that already begins with such a quote gets one
# more, so that reading can take exactly one away.
LIVE = re.compile(r"'*[=+\-@\t\r]")


def write_csv(
    path: str | os.PathLike[str], header: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """Writes a CSV table with a header row; None and NaN become empty cells."""
    with open_replacement(path) as file:
        file.write(_line(header))
        file.writelines(_line(row) for row in rows)


def read_csv(path: Path) -> tuple[list[str], list[list[str]]]:
    """Returns the header and the rows of a table of `write_csv`.

    Raises UserError for a file that cannot be read or is no such table.
    """
    text = decode(read_bytes(path, RUN_BYTES, "A finished run writes it."), str(path))
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise UserError(f"{path}: expected a CSV table; {error}.") from error
    header, *rows = [[_unquoted(cell) for cell in line] for line in lines] or [[]]
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise UserError(f"{path}: line {number} is broken: {','.join(row)[:200]}.")
    return header, rows


def _line(row: Sequence[Any]) -> str:
    buffer = io.StringIO()
    # only with \r\n as the end of lines does the writer quote cells that hold \r
    csv.writer(buffer, lineterminator="\r\n").writerow([_cell(item) for item in row])
    return buffer.getvalue()[:-2] + "\n"


def _cell(item: Any) -> Any:
    if item is None or (isinstance(item, float) and math.isnan(item)):
        return ""
    if not isinstance(item, str):
        return item
    text = item.encode(errors="backslashreplace").decode()  # lone surrogates have no UTF-8
    return f"'{text}" if LIVE.match(text) else text


def _unquoted(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and LIVE.match(cell[1:]) else cell
