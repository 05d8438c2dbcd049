"""The contents of a checkpoint: a state, a description of its run, and checksums of both."""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from lift_jax.errors import UserError
from lift_jax.training.state import State

FOLDER = "checkpoints"  # in the run folder
ABOUT = "about"  # folder of the description, and key of its own checksum
CHECKSUMS = "checksums"  # key in the description of a checkpoint


def to_host(state: State) -> State:
    """Returns the state as NumPy arrays. Call it in every process: it gathers sharded leaves."""
    return jax.tree.map(_fetch, state)


def leaves_to_host(leaves: Mapping[str, jax.Array]) -> dict[str, np.ndarray]:
    """Returns leaves by path as NumPy arrays. Call it in every process, as `to_host`."""
    return {path: _fetch(leaf) for path, leaf in leaves.items()}


def _fetch(leaf: jax.Array | np.ndarray) -> np.ndarray:
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
        return np.asarray(leaf)
    return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))


def checksums(state: State) -> dict[str, int]:
    """Returns the CRC-32 of every leaf's bytes, by path."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {
        jax.tree_util.keystr(path): zlib.crc32(np.ascontiguousarray(leaf).tobytes())
        for path, leaf in leaves
    }


def weights_checksum(tuned: Mapping[str, jax.Array | np.ndarray]) -> int:
    """Returns the CRC-32 of tuned leaves by path, which tells checkpoints apart.

    Call it in every process: it gathers sharded leaves.
    """
    sums = {path: zlib.crc32(_fetch(tuned[path]).tobytes()) for path in sorted(tuned)}
    return zlib.crc32(json.dumps(sums).encode())


def compare(found: Mapping[str, int], saved: Mapping[str, int]) -> None:
    """Raises ValueError, which names a leaf, if checksums are not those that were saved."""
    if wrong := [name for name, value in found.items() if saved.get(name) != value]:
        raise ValueError(f"the values of {wrong[0]} are not those that were saved")


def split(about: dict) -> tuple[dict, dict[str, int]]:
    """Returns a description and the checksums that are saved with it.

    Raises ValueError if the description is not the one that was saved. Earlier versions saved no
    checksum of it, so theirs is not checked.
    """
    if not isinstance(about, dict) or not isinstance(about.get(CHECKSUMS), dict):
        raise ValueError("its description is not one of a checkpoint")
    about = dict(about)
    sums = about.pop(CHECKSUMS)
    if sums.get(ABOUT, about_checksum(about)) != about_checksum(about):
        raise ValueError("its description is not the one that was saved")
    return about, sums


def about_checksum(about: dict) -> int:
    return zlib.crc32(json.dumps(about, sort_keys=True).encode())


def first_line(error: Exception) -> str:
    """Returns the first line of an error's message, or its type."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def all_damaged(folder: Path, faults: dict[int, str]) -> UserError:
    lines = "\n  ".join(f"{folder}/{step}: {fault}" for step, fault in faults.items())
    return UserError(
        f"No checkpoint of this run can be read:\n  {lines}\nRestore them from a copy, delete "
        f"{folder} to start again, or give another --workdir."
    )
