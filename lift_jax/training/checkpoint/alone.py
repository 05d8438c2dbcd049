"""The tuned leaves of a run alone: one safetensors file that also describes the run.

It stands in for the checkpoints of a run folder, as `lift-jax export --format=adapters` writes it.
"""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lift_jax.errors import UserError
from lift_jax.storage.formats.tensors import write_tensors
from lift_jax.storage.reading import parse_json
from lift_jax.training.checkpoint.contents import weights_checksum
from lift_jax.weights.files.source import read_safetensors

NAME = "adapters.safetensors"
ABOUT, CHECKSUM = "description", "checksum"  # keys of the metadata


def write(
    folder: Path,
    leaves: dict[str, np.ndarray],
    about: Mapping[str, Any],
    facts: Mapping[str, str],
) -> None:
    """Writes tuned leaves by our paths, the description of their run, and facts for people.

    Raises DiskError if the file cannot be written.
    """
    text = json.dumps(about)
    metadata = {ABOUT: text, CHECKSUM: _checksum(text, leaves)}
    write_tensors(folder / NAME, leaves, {**facts, **metadata})


def read(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    """Returns tuned leaves and the description of their run, None if there is no such file.

    Raises UserError if it is not what was written.
    """
    path = folder / NAME
    if not path.exists():
        return None
    tensors, _, metadata = read_safetensors(path)
    leaves = {name: np.array(tensor) for name, tensor in tensors.items()}
    text = metadata.get(ABOUT, "")
    if metadata.get(CHECKSUM) != _checksum(text, leaves):
        raise UserError(
            f"{path} is not what lift_jax wrote: its checksum differs. Export it again, or get it "
            "again."
        )
    return leaves, parse_json(text.encode(), f"{path}: its description")


def _checksum(text: str, leaves: Mapping[str, np.ndarray]) -> str:
    return f"{zlib.crc32(text.encode()):08x}{weights_checksum(leaves):08x}"
