"""Converted backbones: one safetensors file with our leaves, and sizes and checksums as metadata.

`save.convert` writes such a file where the user says. Loading any other source writes one into the
cache, and the next load of that source reads it there.
"""

import dataclasses
import hashlib
import json
import math
import mmap
import typing
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lift_jax.errors import UserError, shown
from lift_jax.models.backbone import BackboneConfig
from lift_jax.models.resnet import ResNetConfig
from lift_jax.models.sizes import counted
from lift_jax.models.text import TextConfig
from lift_jax.models.vit.config import VisionConfig
from lift_jax.storage import atomic
from lift_jax.storage.cache import cache_folder
from lift_jax.storage.reading import parse_json
from lift_jax.weights import expected
from lift_jax.weights.files.source import read_safetensors

NAME = "backbone.safetensors"
KEY = "lift_jax"  # the metadata key of sizes and checksums
VERSION = 1
RULES = 3  # of the conversion, so that the cache holds none that was made by older rules
DTYPES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}


def cached(files: Iterable[Path], sizes: Mapping[str, Any]) -> Path:
    """Returns the path in the cache for the conversion of files with the given sizes.

    The first half of its name is a digest of paths and sizes, the second of the files' lengths,
    times and inodes. So a changed source has a new path with the same first half.
    """
    paths, versions = [f"{VERSION}.{RULES}", json.dumps(sizes, sort_keys=True, default=repr)], []
    for file in files:
        stat = file.stat()
        paths.append(str(file.absolute()))
        versions.append((stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino))
    digests = (hashlib.sha256(repr(part).encode()).hexdigest()[:20] for part in (paths, versions))
    return cache_folder() / "weights" / f"{'-'.join(digests)}.safetensors"


def other_versions(file: Path) -> list[Path]:
    """Returns the cached conversions of the same source from before it was changed."""
    same_source = file.parent.glob(f"{file.name.partition('-')[0]}-*.safetensors")
    return [other for other in same_source if other != file]


def checksum(array: np.ndarray) -> str:
    """Returns the CRC-32 of the values in float32, so that the stored precision does not matter."""
    return f"{zlib.crc32(np.ascontiguousarray(array, np.float32).data):08x}"


def fingerprint(config: BackboneConfig, checksums: Mapping[str, str], texts: bool = False) -> str:
    """Returns the SHA-256 of the image side: its sizes, and the names and checksums of its leaves.

    With `texts` it is of the text side, "" if there is none.
    """
    sizes = config.text if texts else config.vision
    if sizes is None:
        return ""
    side = {p: c for p, c in checksums.items() if p.startswith("text") == texts}
    hashed = [counted(sizes), config.projections, sorted(side.items())]
    return hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()


def write(
    file: Path,
    config: BackboneConfig,
    leaves: Iterable[tuple[str, np.ndarray]],
    kinds: Mapping[str, jax.ShapeDtypeStruct],
) -> None:
    """Streams leaves into a new file, which gets its name when it is complete.

    Args:
        file: the file to write; its folder is made.
        config: the sizes of the backbone.
        leaves: (path, values), one in memory at a time.
        kinds: shape and stored dtype of every leaf, by path.

    Raises DiskError if the file cannot be written, and whatever `leaves` raises. No file is left
    then.
    """
    header = _header(kinds)
    about = {"version": VERSION, "config": dataclasses.asdict(config)}
    checksums = dict.fromkeys(kinds, "0" * 8)  # placeholders of the length of the real ones

    def encode() -> bytes:
        text = {KEY: json.dumps(about | {"checksums": checksums})}
        raw = json.dumps({"__metadata__": text} | header).encode()
        raw += b" " * (-(len(raw) + 8) % 64)
        return len(raw).to_bytes(8, "little") + raw

    with atomic.replacement(file) as partial, open(partial, "wb") as out:
        start = out.write(encode())
        for path, leaf in leaves:
            stored = np.array(leaf, kinds[path].dtype, order="C")
            out.seek(start + header[path]["data_offsets"][0])
            out.write(stored.reshape(-1).view(np.uint8).data)
            checksums[path] = checksum(stored)
        out.seek(0)
        out.write(encode())


def _header(kinds: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, Any]:
    """Returns the entries of a safetensors header, with the leaves one after another."""
    header = {}
    end = 0
    for path, kind in kinds.items():
        start, end = end, end + math.prod(kind.shape) * kind.dtype.itemsize
        name = DTYPES[kind.dtype.name]
        header[path] = {"dtype": name, "shape": kind.shape, "data_offsets": (start, end)}
    return header


def describe(file: Path) -> tuple[BackboneConfig, dict[str, str]] | None:
    """Returns (sizes, checksums by path) of a converted file, or None for any other file."""
    try:
        tensors, _, texts = read_safetensors(file)
        about = parse_json(texts[KEY], f"{file}: its metadata")
        if about["version"] != VERSION:
            return None
        config, checksums = _config(about["config"]), about["checksums"]
        if not isinstance(checksums, dict) or checksums.keys() != tensors.keys():
            return None
        expected.check(config, tensors, str(file))
    except (UserError, KeyError, TypeError, ValueError):
        return None
    return config, checksums


def load(
    file: Path, checksums: Mapping[str, str], place: Callable[[str, np.ndarray], jax.Array]
) -> dict[str, jax.Array]:
    """Reads the leaves of a converted file, one in memory at a time.

    Args:
        file: the converted file.
        checksums: the checksums by path, from `describe`.
        place: puts (path, values as stored) on its devices.

    Raises UserError if the values of a leaf do not have the checksum that was written.
    """
    tensors, pages, _ = read_safetensors(file)
    placed = {}
    for path, stored in tensors.items():
        array = _copy(stored)  # because the file may be overwritten while the array is in use
        if checksums.get(path) != checksum(array):
            raise UserError(
                f"{file}: the values of {path} are not those that were written. Delete the file "
                "and convert it again."
            )
        placed[path] = place(path, array)
        if hasattr(mmap, "MADV_DONTNEED"):
            # otherwise the whole file would count as memory of this process
            pages.madvise(mmap.MADV_DONTNEED)
    return placed


def _copy(array: np.ndarray) -> np.ndarray:
    """Copies an array to memory aligned to 64 bytes, which JAX uses without a second copy."""
    buffer = np.empty(array.nbytes + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    copied = buffer[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copied[...] = array
    return copied


def _config(raw: Any) -> BackboneConfig:
    """Returns the sizes from what dataclasses.asdict and JSON made of them.

    Raises TypeError, KeyError or ValueError for other fields or values.
    """
    if not isinstance(raw, dict) or not isinstance(raw["vision"], dict):
        raise TypeError(f"the config is {shown(raw)}")
    kind = VisionConfig if "patch" in raw["vision"] else ResNetConfig
    text = None if raw["text"] is None else _sizes(TextConfig, raw["text"])
    towers = {"vision": _sizes(kind, raw["vision"]), "text": text}
    rest = {key: value for key, value in raw.items() if key not in towers}
    return _sizes(BackboneConfig, rest, towers)


def _sizes(kind: type, raw: dict[str, Any], made: Mapping[str, Any] | None = None) -> Any:
    """Returns a config of this kind from its fields; `made` has those that are configs.

    Raises TypeError for a value of another type than its field's, and for other fields.
    """
    if not isinstance(raw, dict):
        raise TypeError(f"the sizes of a {kind.__name__} are {shown(raw)}")
    hints = typing.get_type_hints(kind)
    values = dict(made or {})
    for key, value in raw.items():
        values[key] = tuple(value) if isinstance(value, list) else value
        if not _fits(values[key], hints[key]):
            raise TypeError(f"{key} is {shown(value)}")
    return kind(**values)


def _fits(value: Any, hint: Any) -> bool:
    """Returns True if a value is of the type that a field of a config has."""
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)
        whole = isinstance(value, tuple) and (inner[-1] is Ellipsis or len(value) == len(inner))
        return whole and all(_fits(each, inner[0]) for each in value)
    if args := typing.get_args(hint):  # int | None
        return any(_fits(value, each) for each in args)
    kinds = (int, float) if hint is float else hint
    return isinstance(value, kinds) and isinstance(value, bool) == (hint is bool)
