"""Converted backbones: our leaves in one safetensors file, sizes and checksums in its metadata.

`convert` writes one where the user says; loading any other source writes one into the cache, from
where the next load takes it.
"""

import dataclasses
import hashlib
import json
import math
import mmap
import os
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lift_jax.errors import UserError
from lift_jax.models.backbone import BackboneConfig
from lift_jax.models.resnet import ResNetConfig
from lift_jax.models.text import TextConfig
from lift_jax.models.vit import VisionConfig
from lift_jax.storage.cache import cache_folder
from lift_jax.weights.files.source import read_safetensors

NAME = "backbone.safetensors"
KEY = "lift_jax"  # of the metadata
VERSION = 1
DTYPES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}


def cached(files: Iterable[Path], how: Mapping[str, Any]) -> Path:
    """The place in the cache of the conversion of these files, as they are now, with `how`.

    The name's first half is of the paths, its second of sizes and times.
    """
    paths, stamps = [str(VERSION), json.dumps(how, sort_keys=True)], []
    for file in files:
        stat = file.stat()
        paths.append(str(file.absolute()))
        stamps.append((stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino))
    digests = (hashlib.sha256(repr(part).encode()).hexdigest()[:20] for part in (paths, stamps))
    return cache_folder() / "weights" / f"{'-'.join(digests)}.safetensors"


def checksum(array: np.ndarray) -> str:
    """CRC-32 of the values in float32: the same in whatever precision they are stored."""
    return f"{zlib.crc32(np.ascontiguousarray(array, np.float32).data):08x}"


def fingerprint(config: BackboneConfig, checksums: Mapping[str, str], texts: bool = False) -> str:
    """SHA-256 over what the image side is: its sizes, the names and the values of its leaves.

    With `texts` over the side of texts, "" where there is none.
    """
    sizes = config.text if texts else config.vision
    if sizes is None:
        return ""
    side = {p: c for p, c in checksums.items() if p.startswith("text") == texts}
    told = [dataclasses.asdict(sizes), config.projections, sorted(side.items())]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def write(
    file: Path,
    config: BackboneConfig,
    leaves: Iterable[tuple[str, np.ndarray]],
    kinds: Mapping[str, jax.ShapeDtypeStruct],
) -> None:
    """Streams the leaves, of these shapes and dtypes, into a new file, which is renamed when whole.

    Raises OSError if it cannot be written, and whatever `leaves` raises; nothing is left then.
    """
    header: dict[str, Any] = {}
    end = 0
    for path, kind in kinds.items():
        start, end = end, end + math.prod(kind.shape) * kind.dtype.itemsize
        name = DTYPES[kind.dtype.name]
        header[path] = {"dtype": name, "shape": kind.shape, "data_offsets": (start, end)}
    about = {"version": VERSION, "config": dataclasses.asdict(config)}
    checksums = dict.fromkeys(kinds, "0" * 8)  # as long as the real ones, which come last

    def encode() -> bytes:
        text = {KEY: json.dumps(about | {"checksums": checksums})}
        raw = json.dumps({"__metadata__": text} | header).encode()
        raw += b" " * (-(len(raw) + 8) % 64)
        return len(raw).to_bytes(8, "little") + raw

    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as out:
            start = out.write(encode())
            for path, leaf in leaves:
                stored = np.array(leaf, kinds[path].dtype, order="C")
                out.seek(start + header[path]["data_offsets"][0])
                out.write(stored.reshape(-1).view(np.uint8).data)
                checksums[path] = checksum(stored)
            out.seek(0)
            out.write(encode())
            out.flush()
            os.fsync(out.fileno())
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)


def describe(file: Path) -> tuple[BackboneConfig, dict[str, str]] | None:
    """Sizes and checksums of a converted file; None for any other file."""
    try:
        about = json.loads(read_safetensors(file)[2][KEY])
        if about["version"] != VERSION:
            return None
        return _config(about["config"]), about["checksums"]
    except (UserError, KeyError, TypeError, ValueError):
        return None


def load(
    file: Path, checksums: Mapping[str, str], place: Callable[[str, np.ndarray], jax.Array]
) -> dict[str, jax.Array]:
    """Hands every leaf of a converted file to `place`, one in memory at a time.

    Raises UserError if a value is not what was written (`checksums`, of `describe`).
    """
    tensors, pages, _ = read_safetensors(file)
    placed = {}
    for path, stored in tensors.items():
        array = _copy(stored)  # for the file may be overwritten while the array lives
        if checksums.get(path) != checksum(array):
            raise UserError(
                f"{file}: the values of {path} are not those that were written. Delete the file "
                "and convert it again."
            )
        placed[path] = place(path, array)
        if hasattr(mmap, "MADV_DONTNEED"):
            pages.madvise(mmap.MADV_DONTNEED)  # or the whole file would count as ours
    return placed


def _copy(array: np.ndarray) -> np.ndarray:
    """A copy that lies where JAX takes host arrays over as they are, without a second copy."""
    room = np.empty(array.nbytes + 64, np.uint8)
    start = -room.ctypes.data % 64
    copied = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copied[...] = array
    return copied


def _config(raw: dict[str, Any]) -> BackboneConfig:
    """The inverse of dataclasses.asdict, through JSON. Raises TypeError for other fields."""

    def tuples(fields: dict[str, Any]) -> dict[str, Any]:
        return {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}

    vision = tuples(raw["vision"])
    kind = VisionConfig if "patch" in vision else ResNetConfig
    text = None if raw["text"] is None else TextConfig(**tuples(raw["text"]))
    return BackboneConfig(**tuples(raw) | {"vision": kind(**vision), "text": text})
