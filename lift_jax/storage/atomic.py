"""Files that are complete or absent: written under a temporary name, then renamed."""

import csv
import errno
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from lift_jax.errors import DiskError


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Around what writes to a folder: raises DiskError where its disk cannot take more."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES):
            raise
        raise DiskError(
            f"Cannot write {error.filename or f'to {folder}'}: {error.strerror}. The checkpoints "
            "that are complete are intact: make room, or the folder writable, and run the same "
            "command to continue."
        ) from error


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[TextIO]:
    """Opens a text file that takes the path's name when the block ends, unless it raises."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # a rename may outrun the data when the machine stops
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes JSON; NumPy numbers and arrays are taken, NaN and infinity raise ValueError."""

    def plain(item: Any) -> Any:
        if isinstance(item, np.ndarray | np.generic):
            return item.tolist()
        raise TypeError(f"{type(item).__name__} does not fit into JSON")

    with replacing(path) as file:
        file.write(json.dumps(value, indent=2, default=plain, allow_nan=False) + "\n")


def write_csv(
    path: str | os.PathLike[str], header: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """Writes a table with a header; None and NaN become empty cells."""

    def cell(item: Any) -> Any:
        return "" if item is None or (isinstance(item, float) and math.isnan(item)) else item

    with replacing(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows([cell(item) for item in row] for row in rows)
