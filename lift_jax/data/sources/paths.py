"""Paths in the settings group `data`, and the text of the files there.

Addresses such as gs://bucket/photos become objects with the methods of other paths.
"""

import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import cast

from etils import epath

from lift_jax.errors import UserError
from lift_jax.settings.groups.data import DataSettings
from lift_jax.storage import addresses, reading
from lift_jax.storage.names import expand_user


def given(value: str, key: str) -> Path:
    """Returns the path in a setting.

    Raises UserError if it is empty, or an address that needs a package which is not installed.
    """
    if not value:
        raise UserError(f"{key} is empty. Set it to where the data set is, as in {key}=/data/set.")
    if addresses.is_remote(value):
        addresses.file_system(value)
        return cast(Path, epath.Path(value))
    return expand_user(value)


def folder(value: str, key: str = "data.root") -> Path:
    """Returns the directory in a setting. Raises UserError if it does not exist."""
    path = given(value, key)
    if not _asked(path, path.is_dir):
        raise UserError(f"There is no directory {path}. Set {key} to where the paths start.")
    return path


def file(root: Path, value: str, key: str) -> Path:
    """Returns the file in a setting, from the working directory or else from `root`.

    Raises UserError as `given`, and if there is no such file.
    """
    path = given(value, key)
    choices = (path, root / path)
    for choice in choices:
        if _asked(choice, choice.is_file):
            return choice
    for choice in choices:
        if _asked(choice, choice.is_dir):
            raise UserError(f"{choice} is a directory. Set {key} to a text file.")
    places = " or ".join(
        dict.fromkeys(
            str(choice) if addresses.is_remote(choice) else os.path.abspath(choice)
            for choice in choices
        )
    )
    raise UserError(f"There is no file {places}. Set {key} to a text file.")


def split_files(settings: DataSettings, root: Path, needed: Collection[str]) -> dict[str, Path]:
    """Returns the files of data.train_list, test_list and val_list, by split.

    Those that are not needed may be empty, and are then left out. Raises UserError as `file`.
    """
    given = {split: getattr(settings, f"{split}_list") for split in ("train", "test", "val")}
    return {
        split: file(root, value, f"data.{split}_list")
        for split, value in given.items()
        if value or split in needed
    }


def _asked(path: Path, question: Callable[[], bool]) -> bool:
    """Returns the answer about a path. Raises UserError if its folder may not be looked into."""
    try:
        return question()
    except OSError as error:
        raise UserError(f"Cannot open {path}: {error.strerror}. Let this user read it.") from error


def read_text(path: Path) -> str:
    """Returns the text of a UTF-8 file without its byte-order mark.

    Raises UserError if it cannot be read, is too large, is not UTF-8, or is blank.
    """
    text = reading.read_text(path, reading.DATA_BYTES)
    if not text.strip():
        raise UserError(f"The text file {path} is empty.")
    return text


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Returns (line number, stripped text) of the lines of a text file that are not blank.

    Lines end in LF, CRLF or CR. Raises UserError as `read_text`.
    """
    text = read_text(path).replace("\r\n", "\n").replace("\r", "\n")
    lines = enumerate(text.split("\n"), 1)
    return [(number, line.strip()) for number, line in lines if line.strip()]
