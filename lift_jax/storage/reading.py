"""Reading of files from outside: text and JSON within limits of size, depth and numbers.

A file that somebody else wrote may hold anything. What these functions return is plain: valid
UTF-8, no key twice, no number that a float or 64 bits cannot hold, and no nesting beyond `DEEPEST`.
"""

import json
import math
import os
import re
import stat
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from rich.filesize import decimal

from lift_jax.errors import UserError
from lift_jax.storage import addresses

MEGABYTE = 10**6
CONFIG_BYTES = 64 * MEGABYTE  # configs, indexes and metadata: a thousand times the usual size
RUN_BYTES = 500 * MEGABYTE  # files of a run folder, which name every class
DATA_BYTES = 4_000 * MEGABYTE  # lists of images; those of iNaturalist 2021 have 1 GB
DEEPEST = 100  # objects and lists inside each other
LONGEST_INTEGER = 20  # characters: 64 bits, signed or not

KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}
NAMES: dict[type, str] = {dict: "a JSON object", list: "a JSON list"}
NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
STRINGS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
CHUNK = 64 * MEGABYTE


def read_bytes(path: Path, most_bytes: int = CONFIG_BYTES, remedy: str = "") -> bytes:
    """Returns the contents of a file.

    Args:
        path: the file, on this machine or an `epath.Path` at an address.
        most_bytes: the largest size that is read.
        remedy: the last sentence of messages: what to do.

    Raises UserError for a file that cannot be read, is no regular file, or is larger.
    """
    try:
        if addresses.is_remote(path):
            _check_size(path, addresses.size(str(path)) or 0, most_bytes)
            content = path.read_bytes()
            _check_size(path, len(content), most_bytes)  # it may have grown, or have no size there
            return content
        with open_regular(path) as file:
            _check_size(path, os.fstat(file.fileno()).st_size, most_bytes)
            return file.read()
    except UserError as error:
        raise UserError(f"{error} {remedy}".strip()) from error
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"Cannot read {path}: {reason}. {remedy}".strip()) from error


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Opens a regular file, or a link to one, for reading.

    Raises UserError at once for anything else: reading a FIFO or device could wait for ever. Raises
    OSError if the file cannot be opened.
    """
    # O_NONBLOCK: opening a FIFO would wait for a writer. It changes nothing for regular files.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    kind = stat.S_IFMT(os.fstat(handle).st_mode)
    if kind != stat.S_IFREG:
        os.close(handle)
        found = KINDS.get(kind, "something else")
        raise UserError(f"{os.fspath(path)}: expected a regular file, found {found}.")
    return open(handle, "rb")


def _check_size(path: Path, size: int, most_bytes: int) -> None:
    if size > most_bytes:
        raise UserError(f"{path} has {decimal(size)}; expected at most {decimal(most_bytes)}.")


def read_text(path: Path, most_bytes: int = CONFIG_BYTES, remedy: str = "") -> str:
    """Returns the text of a file in UTF-8, a byte-order mark dropped.

    Raises UserError as `read_bytes`, and for a file that is not UTF-8.
    """
    return decode(read_bytes(path, most_bytes, remedy), str(path), remedy)


def decode(content: bytes, where: str, remedy: str = "") -> str:
    """Returns bytes as text in UTF-8, a byte-order mark dropped. Raises UserError for others."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = content[error.start]
        raise UserError(
            f"{where} is not text in UTF-8: byte {error.start} is 0x{byte:02x}. "
            f"{remedy or 'Save it as UTF-8.'}"
        ) from error


def read_json(
    path: Path, kind: type = dict, most_bytes: int = CONFIG_BYTES, remedy: str = ""
) -> Any:
    """Returns the JSON value of a file.

    Args:
        path, most_bytes, remedy: as for `read_bytes`.
        kind: the expected type, dict or list; object for any.

    Raises UserError as `read_bytes` and `parse_json`.
    """
    return parse_json(read_bytes(path, most_bytes, remedy), str(path), kind, remedy)


def parse_json(content: str | bytes, where: str, kind: type = dict, remedy: str = "") -> Any:
    """Returns the JSON value of a text.

    Args:
        content: the text, or its bytes in UTF-8.
        where: the source of the text, which messages begin with.
        kind: the expected type, dict or list; object for any.
        remedy: the last sentence of messages: what to do.

    Raises UserError for a text that is not JSON, a value of another type, a key that an object has
    twice, NaN and infinity, an integer beyond 64 bits, and nesting beyond `DEEPEST`.
    """
    raw = content.encode(errors="replace") if isinstance(content, str) else content
    text = decode(content, where, remedy) if isinstance(content, bytes) else content
    if _nests_too_deep(raw):
        raise UserError(
            f"{where} is not JSON: lists or objects nest more than {DEEPEST} deep. {remedy}".strip()
        )
    try:
        value = json.loads(
            text, parse_int=_integer, parse_float=_number, parse_constant=_number,
            object_pairs_hook=_object,
        )  # fmt: skip
        if b"\\ud" in raw or b"\\uD" in raw:  # lone surrogates, which nothing can print
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        reason = "half a character (\\ud...)" if isinstance(error, UnicodeEncodeError) else error
        raise UserError(f"{where} is not JSON: {reason}. {remedy}".strip()) from error
    if not isinstance(value, kind):
        raise UserError(
            f"{where} holds {json.dumps(value)[:60]}; expected {NAMES[kind]}. {remedy}".strip()
        )
    return value


def _nests_too_deep(content: bytes) -> bool:
    """Returns True if brackets outside of strings nest deeper than `DEEPEST`."""
    # brackets in strings count in the quick first look, so a deep text is looked at without strings
    return _depth(content) > DEEPEST and _depth(STRINGS.sub(b"", content)) > DEEPEST


def _depth(content: bytes) -> int:
    """Returns how deep brackets nest, at most."""
    most = depth = 0
    for start in range(0, len(content), CHUNK):
        brackets = content[start : start + CHUNK].translate(None, NO_BRACKETS)
        opens = np.isin(np.frombuffer(brackets, np.uint8), list(b"[{"))
        depths = depth + np.where(opens, 1, -1).cumsum()
        if len(depths):
            most, depth = max(most, int(depths.max())), int(depths[-1])
    return most


def _integer(text: str) -> int:
    if len(text) > LONGEST_INTEGER or not -(2**63) <= int(text) < 2**64:
        raise ValueError(f"the number {text:.20}... has more than 64 bits")
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text:.20} is not finite")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {twice[:60]!r} is there twice")
    return found
