"""One opened source of weights: its tensors as views of mapped files, and what lies beside them."""

import json
import mmap
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from lift_jax.errors import UserError
from lift_jax.weights.files import torch_archive

CONFIG, OPEN_CLIP = "config.json", "open_clip_config.json"
PREPROCESSOR = "preprocessor_config.json"
# the weights that a folder may hold, in the order of preference
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
OPEN_CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".tar")

_DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8,
    "BOOL": np.bool_,
}  # fmt: skip


@dataclass
class Source:
    """A file, or a folder of them.

    Attributes:
        path: the folder or file as given.
        where: what messages call the weights.
        files: all files that were read.
        tensors: views of the mapped weights by name; nothing is read until it is used.
        config, open_clip, images: config.json, open_clip_config.json and
            preprocessor_config.json; empty without one.
        metadata: the JSON under "config" in a safetensors file's metadata; empty without it.
    """

    path: Path
    where: str
    files: list[Path] = field(default_factory=list)
    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    open_clip: dict[str, Any] = field(default_factory=dict)
    images: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    _pages: list[mmap.mmap] = field(default_factory=list)

    def release(self) -> None:
        """Gives the mapped pages back to the system; the views read them again when used."""
        for pages in self._pages:
            if hasattr(mmap, "MADV_DONTNEED"):
                pages.madvise(mmap.MADV_DONTNEED)


def open_source(path: Path) -> Source:
    """Opens a weight file, or a folder with one and its configs.

    Raises UserError, naming the file, for what is absent, cut short, not a weight file, or holds
    anything but tensors.
    """
    found = Source(path, str(path))
    file = weight_file(path) if path.is_dir() else path
    config = (OPEN_CLIP, "open_clip") if file.name in OPEN_CLIP_WEIGHTS else (CONFIG, "config")
    if path.is_dir() or file.name in (*WEIGHTS, *OPEN_CLIP_WEIGHTS):
        for name, key in (config, (PREPROCESSOR, "images")):
            if (file.parent / name).exists():
                found.files.append(file.parent / name)
                setattr(found, key, read_json(file.parent / name))
    found.where = str(file)
    found.files.append(file)
    if file.name.endswith(".index.json"):
        shards = read_json(file).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise UserError(f"{file} has no weight_map: expected the names of shards.")
        parts = [file.parent / name for name in sorted(set(shards.values()))]
        if outside := [part for part in parts if part.parent != file.parent]:
            raise UserError(f"{file} names a shard outside its folder: {outside[0]}.")
        found.files += parts
    else:
        parts = [file]
    for part in parts:
        tensors, pages, metadata = _read(part)
        found.tensors |= tensors
        found.metadata |= metadata
        found._pages.append(pages)
    return found


def weight_file(folder: Path) -> Path:
    """The file of a folder that holds its weights. Raises UserError where there is none, or more
    than one without a usual name."""
    transformers = (folder / CONFIG).exists() and "model_type" in read_json(folder / CONFIG)
    names = (*OPEN_CLIP_WEIGHTS, *WEIGHTS) if not transformers else (*WEIGHTS, *OPEN_CLIP_WEIGHTS)
    for name in names:
        if (folder / name).exists():
            return folder / name
    others = sorted(p for p in folder.iterdir() if p.suffix in SUFFIXES)
    if len(others) == 1:
        return others[0]
    found = f"found {', '.join(p.name for p in others)}" if others else "found none"
    raise UserError(
        f"{folder} does not say which weights to read: expected one of {', '.join(names)}; {found}."
        " Give the file itself, or get the folder again."
    )


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object. Raises UserError for anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as e:
        raise UserError(f"Cannot read {path} as JSON ({e}). Get the file again.") from e
    if not isinstance(value, dict):
        raise UserError(f"{path} holds {str(value)[:40]!r}; expected a JSON object.")
    return value


def _read(path: Path) -> tuple[dict[str, np.ndarray], mmap.mmap, dict[str, Any]]:
    """Tensors, mapped pages and metadata of one file, by its content and not by its suffix."""
    if path.is_file() and torch_archive.is_torch_file(path):
        file = torch_archive.read(path)
        if "tuner" in file.contents:
            raise UserError(
                f"{path} is a checkpoint of LIFT's or LIFT+'s own code: what was tuned, and no "
                "backbone. Give it as model.tuned, beside the backbone that it was tuned on."
            )
        return torch_archive.state_dict(file.contents, str(path)), file.pages, {}
    tensors, pages, texts = read_safetensors(path)
    return tensors, pages, _config_of(texts, path)


def _config_of(texts: dict[str, str], path: Path) -> dict[str, Any]:
    try:
        config = json.loads(texts.get("config", "{}"))
    except json.JSONDecodeError as e:
        raise UserError(f"{path}: its metadata has a config that is not JSON ({e}).") from e
    return config if isinstance(config, dict) else {}


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], mmap.mmap, dict[str, str]]:
    """Views of a safetensors file's tensors, the mapped pages, and its metadata.

    Raises UserError if the file is absent, cut short or something else.
    """
    try:
        with safetensors.safe_open(path, framework="np"):
            pass  # the library checks the header against the file's size
        with open(path, "rb") as file:
            pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError, safetensors.SafetensorError) as e:
        kind = "safetensors" if path.suffix == ".safetensors" else "a PyTorch file or safetensors"
        raise UserError(
            f"Cannot read {path} as {kind} ({_looks_like(path) or e}). The file may be absent,"
            " cut short or not a weight file: get it again."
        ) from e
    size = int.from_bytes(pages[:8], "little")
    header = json.loads(pages[8 : 8 + size])
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        if entry["dtype"] not in _DTYPES:
            raise UserError(
                f"{path} stores {name} as {entry['dtype']}; expected one of {', '.join(_DTYPES)}."
            )
        start, end = entry["data_offsets"]
        data = memoryview(pages)[8 + size + start : 8 + size + end]
        tensors[name] = np.frombuffer(data, np.uint8).view(_DTYPES[entry["dtype"]])
        tensors[name] = tensors[name].reshape(entry["shape"])
    return tensors, pages, metadata


def _looks_like(path: Path) -> str:
    """What the content is if not weights; empty where that is unknown."""
    looks: list[tuple[Callable[[bytes], bool], str]] = [
        (lambda b: not b, "it is empty"),
        (lambda b: b.lstrip()[:1] == b"<", "it is an HTML page"),
        (lambda b: b.startswith(b"\x80"), "it is a pickle, of which nothing was executed"),
        (lambda b: b.startswith(b"version https://git-lfs"), "it is a Git LFS pointer"),
    ]
    try:
        with open(path, "rb") as file:
            start = file.read(64)
    except OSError:
        return ""
    return next((text for test, text in looks if test(start)), "")
