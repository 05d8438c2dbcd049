"""Files of tensors (safetensors) whose bytes depend on nothing but their content."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.numpy

from lift_jax.storage import atomic


def write_tensors(path: Path, arrays: dict[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes arrays by name, and metadata sorted by key: safetensors itself shuffles its keys.

    Raises DiskError if the file cannot be written.
    """
    content = safetensors.numpy.save(arrays)
    start = 8 + int.from_bytes(content[:8], "little")
    header = {"__metadata__": dict(sorted(metadata.items()))} | json.loads(content[8:start])
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)  # the values begin at a multiple of 8 bytes
    atomic.write_bytes(path, len(raw).to_bytes(8, "little") + raw + content[start:])
