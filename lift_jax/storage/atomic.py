"""Writing of files that are complete or absent: under a temporary name, then renamed."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from lift_jax.errors import DiskError
from lift_jax.output.lines import say_error


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turns errors of a disk that is full, over quota or read-only into DiskError.

    Wrap it around code that writes to `folder`.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES):
            raise
        raise DiskError(
            f"Cannot write {error.filename or f'to {folder}'}: {error.strerror}. Complete "
            "checkpoints are intact. Make room on the disk or make the folder writable, then run "
            "the same command to continue."
        ) from error


def warn(line: str) -> None:
    """Prints a warning on standard error."""
    say_error(f"Warning: {line}")


def move_aside(path: Path, aside: Path) -> Path:
    """Renames a damaged file or folder in place of an earlier one of that name; returns `aside`."""
    if aside.is_dir() and not aside.is_symlink():
        shutil.rmtree(aside)
    else:
        aside.unlink(missing_ok=True)
    path.rename(aside)
    return aside


def make_way(path: Path) -> None:
    """Moves a folder aside that lies where a file is to be written, and says so."""
    if path.is_dir():
        aside = move_aside(path, path.with_name(f"damaged_{path.name}"))
        warn(f"{path} is a folder, where a file belongs. It was moved to {aside}.")


@contextmanager
def open_replacement(path: str | os.PathLike[str]) -> Iterator[TextIO]:
    """Opens a text file that replaces `path` when the block ends.

    If the block raises, `path` stays as it was. A folder of that name is moved aside.
    """
    path = Path(path)
    make_way(path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # else a crash may keep the rename and lose the data
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes a value as JSON; NumPy numbers and arrays become plain numbers and lists.

    Raises ValueError for NaN and infinity, TypeError for a type that JSON has no form for.
    """

    def plain(item: Any) -> Any:
        if isinstance(item, np.ndarray | np.generic):
            return item.tolist()
        raise TypeError(f"{type(item).__name__} does not fit into JSON")

    with open_replacement(path) as file:
        file.write(json.dumps(value, indent=2, default=plain, allow_nan=False) + "\n")
