"""Where the files lie that the config names, and their text.

Also at addresses such as gs://bucket/photos: their paths have the methods of other paths.
"""

import os
from pathlib import Path
from typing import cast

from etils import epath

from lift_jax.errors import UserError
from lift_jax.storage import addresses, reading


def given(value: str, key: str) -> Path:
    """Returns the path that a key of the config gives.

    Raises UserError if it is empty, and for an address of a kind that cannot be read here.
    """
    if not value:
        raise UserError(f"{key} is empty. Set it to where the data set is, as in {key}=/data/set.")
    if addresses.is_remote(value):
        addresses.file_system(value)
        return cast(Path, epath.Path(value))
    return Path(value).expanduser()


def folder(value: str, key: str = "data.root") -> Path:
    """Returns the directory that a key of the config gives. Raises UserError if there is none."""
    if not (path := given(value, key)).is_dir():
        raise UserError(f"There is no directory {path}. Set {key} to where the paths start.")
    return path


def file(root: Path, value: str, key: str) -> Path:
    """Returns the file that a key of the config gives, looked for here and then below `root`."""
    path = given(value, key)
    choices = (path, root / path)
    for choice in choices:
        if choice.is_file():
            return choice
    places = " or ".join(
        dict.fromkeys(
            str(choice) if addresses.is_remote(choice) else os.path.abspath(choice)
            for choice in choices
        )
    )
    raise UserError(f"There is no file {places}. Set {key} to a text file.")


def read_text(path: Path) -> str:
    """Returns the text of a file in UTF-8, a byte-order mark dropped.

    Raises UserError where it cannot be read, is too large, is not UTF-8 or is blank.
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
