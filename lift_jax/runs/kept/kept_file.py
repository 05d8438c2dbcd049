"""A file of tensors that a run keeps beside its results, with a checksum of its own."""

import json
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
import safetensors
import safetensors.numpy

from lift_jax.errors import UserError
from lift_jax.storage import reading
from lift_jax.storage.formats.tensors import write_tensors

CHECKSUM = "checksum"
# The names of all kept files.
NAMES = ("predictions.safetensors", "examples.safetensors", "features.safetensors")
REMEDY = "The run's command with --mode=evaluate writes all kept files again."

Arrays = dict[str, np.ndarray]
Content = TypeVar("Content")


def write(path: Path, arrays: Arrays, about: Mapping[str, str]) -> None:
    """Writes arrays by name and texts about them. Raises DiskError if they cannot be written."""
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    write_tensors(path, arrays, {**about, CHECKSUM: str(_sum(arrays, about))})


def read(path: Path) -> tuple[Arrays, dict[str, str]] | None:
    """Returns the arrays and the texts about them, None if there is no such file.

    Raises UserError, which says what to do, if it is not what was written.
    """
    if not os.path.lexists(path):
        return None
    content = reading.read_bytes(path, reading.DATA_BYTES, REMEDY)
    try:
        arrays = safetensors.numpy.load(content)
        size = int.from_bytes(content[:8], "little")
        about = json.loads(content[8 : 8 + size]).get("__metadata__", {})
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise UserError(f"{path} is not what lift_jax wrote: {error}. {REMEDY}") from error
    if about.pop(CHECKSUM, None) != str(_sum(arrays, about)):
        raise UserError(f"{path} is not what lift_jax wrote: its checksum differs. {REMEDY}")
    return arrays, about


def read_as(
    path: Path, version: str, make: Callable[[Arrays, dict[str, str]], Content]
) -> Content | None:
    """Returns what `make` makes of the arrays and the texts about them, None without a file.

    Raises UserError as `read`, and for a file of another version or with other contents.
    """
    found = read(path)
    if found is None:
        return None
    if found[1].get("version") != version:
        raise UserError(f"{path} is of another version of lift_jax. {REMEDY}")
    try:
        return make(*found)
    except (KeyError, ValueError) as error:
        raise UserError(f"{path} is not what lift_jax wrote: {error!r}. {REMEDY}") from error


def checksums(workdir: Path) -> dict[str, int | None]:
    """Returns the checksums of the kept files that a run folder has, None for damaged ones."""
    names = [name for name in NAMES if os.path.lexists(workdir / name)]
    return {name: _checksum(workdir / name) for name in names}


def _checksum(path: Path) -> int | None:
    try:
        found = read(path)
    except UserError:
        return None
    return None if found is None else _sum(*found)


def _sum(arrays: Mapping[str, np.ndarray], about: Mapping[str, str]) -> int:
    found = {
        name: [array.dtype.str, list(array.shape), zlib.crc32(array.data)]
        for name, array in sorted(arrays.items())
    }
    return zlib.crc32(json.dumps([found, dict(sorted(about.items()))]).encode())
