"""Writing of files that are complete or absent: under a temporary name, then renamed."""

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from lift_jax.output.lines import say_error
from lift_jax.storage import disk, temporary

# Temporary files and folders that are being written now. A program that ends at once removes them.
UNFINISHED: set[Path] = set()


def warn(line: str) -> None:
    """Prints a warning on standard error."""
    say_error(f"Warning: {line}")


def move_aside(path: Path, aside: Path) -> Path:
    """Renames a damaged file or folder to `aside`, replaces what lies there, returns `aside`."""
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
def replacement(path: str | os.PathLike[str], clean: bool = False) -> Iterator[Path]:
    """Yields a path to write to, by any library; it replaces `path` when the block ends.

    If the block raises, `path` stays as it was and nothing else is left. A folder of that name is
    moved aside, and the folder of `path` is made. What a killed process left of `path` is removed.
    Pass `clean` if the folder holds no such thing: a search of a large folder takes long.
    Raises DiskError if it cannot be written.
    """
    path = Path(path)
    partial = temporary.beside(path)
    with disk.disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        make_way(path)
        if not clean:
            temporary.remove_stale(path)
        UNFINISHED.add(partial)
        try:
            yield partial
            sync(partial)
            os.replace(partial, path)
        finally:
            with suppress(OSError):
                partial.unlink()
            UNFINISHED.discard(partial)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yields a folder to fill; it becomes `path` when the block ends.

    If the block raises, nothing is left. What a killed process left of `path` is removed. Raises
    DiskError if it cannot be written, or if there is a folder or file of that name by then.
    """
    partial = temporary.beside(path)
    with disk.disk_errors(path):
        temporary.remove_stale(path)
        UNFINISHED.add(partial)
        try:
            partial.mkdir()
            yield partial
            os.rename(partial, path)
        finally:
            temporary.remove(partial)
            UNFINISHED.discard(partial)


@contextmanager
def temporary_folder(parent: Path, name: str) -> Iterator[Path]:
    """Yields an empty folder in `parent`, which is removed when the block ends.

    What killed processes left under that name is removed as well. Raises OSError if the folder
    cannot be made.
    """
    folder = temporary.beside(parent / name, uuid.uuid4().hex[:8])
    folder.mkdir(mode=0o700)
    UNFINISHED.add(folder)
    try:
        with suppress(OSError):  # of folders that cannot be listed
            temporary.remove_stale(parent / name)
        yield folder
    finally:
        temporary.remove(folder)
        UNFINISHED.discard(folder)


def sync(path: Path) -> None:
    """Waits until a file is on the disk: otherwise a crash could keep its name and lose its data.

    Call it before the file is renamed.
    """
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


@contextmanager
def open_replacement(path: str | os.PathLike[str]) -> Iterator[TextIO]:
    """Opens a text file that replaces `path` when the block ends; see `replacement`."""
    with (
        replacement(path) as partial,
        open(partial, "w", encoding="utf-8", newline="") as file,
    ):
        yield file


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a file of bytes; see `replacement`."""
    with replacement(path) as partial:
        partial.write_bytes(content)


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
