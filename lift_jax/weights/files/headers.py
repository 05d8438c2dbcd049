"""Headers of weight files: the shapes, names and texts that a file states, checked.

Every reader of a weight format turns what a header says into an array by `tensor`, so the limits
hold for all of them.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lift_jax.errors import UserError, shown

MOST_AXES = 8  # of a tensor; those of the backbones have at most 4
LARGEST_AXIS = 2**40
LONGEST_NAME = 255  # bytes of a file's name
MOST_SHARDS = 10_000


def check_shape(shape: Any) -> tuple[int, ...]:
    """Returns a shape as a tuple. Raises ValueError for anything but a few sizes from 0 on."""
    if not isinstance(shape, Sequence) or len(shape) > MOST_AXES:
        raise ValueError(f"a tensor of shape {shown(shape)}, expected at most {MOST_AXES} axes")
    if not all(type(size) is int and 0 <= size <= LARGEST_AXIS for size in shape):
        raise ValueError(f"a tensor of shape {shown(shape)}")
    return tuple(shape)


def tensor(
    memory: memoryview,
    dtype: np.dtype,
    shape: Any,
    offset: int = 0,
    strides: Sequence[int] | None = None,
) -> np.ndarray:
    """Returns a tensor as a read-only view of memory.

    Args:
        memory: the bytes that the tensor lies in.
        dtype: of its elements.
        shape: as the header states it.
        offset, strides: in elements; without strides the elements follow each other.

    Raises ValueError if the shape is no plain one, or the tensor does not lie within the memory.
    """
    sizes = check_shape(shape)
    if not math.prod(sizes):
        return np.zeros(sizes, dtype)
    steps = [math.prod(sizes[i + 1 :]) for i in range(len(sizes))] if strides is None else strides
    last = offset + sum((n - 1) * step for n, step in zip(sizes, steps, strict=True))
    count = len(memory) // dtype.itemsize
    if offset < 0 or last >= count:
        raise ValueError(f"a tensor of shape {sizes} does not fit its {count} elements")
    return np.ndarray(
        sizes, dtype, memory, offset * dtype.itemsize, [step * dtype.itemsize for step in steps]
    )


def shard_names(index: dict[str, Any], where: str) -> list[str]:
    """Returns the names of the files that an index of shards names, in order.

    Raises UserError for none, and for what is no file beside the index. `where` names the index.
    """
    shard_of = index.get("weight_map")
    if not isinstance(shard_of, dict) or not shard_of:
        raise UserError(
            f"{where} has no weight_map: expected the names of shards. Get the file again."
        )
    for name, shard in shard_of.items():
        if not isinstance(shard, str) or not shard or len(shard.encode()) > LONGEST_NAME:
            raise UserError(
                f"{where}: weight_map has {shown(shard)} for {name[:80]!r}; expected the name of a "
                "file. Get the file again."
            )
    names = sorted(set(shard_of.values()))
    if len(names) > MOST_SHARDS:
        raise UserError(f"{where} names {len(names)} shards; expected at most {MOST_SHARDS}.")
    for name in names:
        if name == ".." or Path(name).name != name or "\0" in name:
            raise UserError(
                f"{where} names a shard outside its folder: {name!r}. Move the shard into the "
                "folder of the index and correct the name."
            )
    return names
