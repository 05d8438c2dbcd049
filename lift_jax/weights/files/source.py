"""Source: an opened file or folder of weights, with its tensors and the configs beside them."""

import json
import mmap
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from lift_jax.errors import UserError
from lift_jax.storage import reading
from lift_jax.storage.reading import parse_json
from lift_jax.weights.files import state_dicts, torch_archive
from lift_jax.weights.files.headers import shard_names, tensor
from lift_jax.weights.files.state_dicts import StateDict

CONFIG, OPEN_CLIP = "config.json", "open_clip_config.json"
PREPROCESSOR = "preprocessor_config.json"
# the names of a folder's weights, in order of preference
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# what peft writes: changes of a backbone, which it does not hold
ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", ("adapter_model.safetensors", "adapter_model.bin")
MERGE = (
    "It changes a backbone that it does not hold: merge it into its backbone with peft's "
    "merge_and_unload(), save that with save_pretrained(FOLDER), and give FOLDER."
)
OPEN_CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
# the suffixes of weight files with other names
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".tar", ".ckpt")
# what training leaves beside its weights to go on with, by the beginnings of names
NO_WEIGHTS = (
    "optimizer", "scheduler", "scaler", "sampler", "rng_state", "random_states", "training_args",
)  # fmt: skip
LARGEST_ENTRY = 10_000  # characters of an object in a file's metadata

_DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8,
    "BOOL": np.bool_,
}  # fmt: skip


@dataclass
class Source:
    """An opened source of weights: a file, or a folder.

    Attributes:
        path: the folder or file as given.
        where: the name of the weights in messages.
        files: all files that were read.
        tensors: the tensors by name, as views of mapped files. Values are read when they are used.
        config: the contents of config.json, empty without one.
        open_clip: the contents of open_clip_config.json, empty without one.
        images: the contents of preprocessor_config.json, empty without one.
        metadata: what a safetensors file's metadata states, empty without any.
        keys: the keys of a checkpoint around its state dict, empty without.
        prefix: what stood before the names of the tensors.
        left_out: the names of the tensors that did not have the prefix.
        notes: sentences on what was chosen of the files.
    """

    path: Path
    where: str
    files: list[Path] = field(default_factory=list)
    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    open_clip: dict[str, Any] = field(default_factory=dict)
    images: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    keys: tuple[str, ...] = ()
    prefix: str = ""
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    _pages: list[mmap.mmap] = field(default_factory=list)

    def release(self) -> None:
        """Gives the memory of the mapped pages back; the views read them again when used."""
        for pages in self._pages:
            if hasattr(mmap, "MADV_DONTNEED"):
                pages.madvise(mmap.MADV_DONTNEED)


def open_source(path: Path) -> Source:
    """Opens a weight file, or a folder with weights and configs.

    Raises UserError, which names the file, if it is absent, cut short or not a weight file, or if
    it holds anything but tensors.
    """
    source = Source(path, str(path))
    file = weight_file(path) if path.is_dir() else path
    config = (OPEN_CLIP, "open_clip") if file.name in OPEN_CLIP_WEIGHTS else (CONFIG, "config")
    if path.is_dir() or file.name in (*WEIGHTS, *OPEN_CLIP_WEIGHTS):
        for name, key in (config, (PREPROCESSOR, "images")):
            if (file.parent / name).exists():
                source.files.append(file.parent / name)
                setattr(source, key, read_json(file.parent / name))
    source.where = str(file)
    source.files.append(file)
    shards = []
    if file.name.endswith(".index.json"):
        shards = [file.parent / name for name in shard_names(read_json(file), str(file))]
    source.files += shards
    found = StateDict({})
    for shard in shards or [file]:
        held, pages, metadata = _read(shard)
        found = replace(held, tensors=found.tensors | held.tensors, notes=found.notes + held.notes)
        source.metadata |= metadata
        source._pages.append(pages)
    found = state_dicts.without_prefix(found, source.where)
    source.tensors, source.keys, source.prefix = found.tensors, found.keys, found.prefix
    source.left_out, source.notes = found.left_out, found.notes
    if not (source.config or source.open_clip) and state_dicts.of_transformers(found.tensors):
        _read_configs_beside(source, file.parent)
    if path.is_dir() and (path / ADAPTER).exists():
        source.notes += (
            f"{path} also holds an adapter of peft ({ADAPTER}), which is not applied: {file.name} "
            "is taken as it is.",
        )
    return source


def _read_configs_beside(source: Source, folder: Path) -> None:
    """Reads the configs beside a file of another name with weights of transformers, with a note.

    Raises UserError if one cannot be read.
    """
    if not (folder / CONFIG).exists() or "model_type" not in read_json(folder / CONFIG):
        return
    for name, key in ((CONFIG, "config"), (PREPROCESSOR, "images")):
        if (folder / name).exists():
            source.files.insert(0, folder / name)
            setattr(source, key, read_json(folder / name))
    source.notes += (f"The sizes are those of {folder / CONFIG}, which lies beside the weights.",)


def weight_file(folder: Path) -> Path:
    """Returns the file of a folder that holds its weights.

    Raises UserError if there is none, or more than one and none with a usual name, and for an
    adapter of peft alone.
    """
    config = folder / CONFIG
    names = weight_names(config if config.exists() else None)
    for name in names:
        if (folder / name).exists():
            return folder / name
    if (folder / ADAPTER).exists():
        raise UserError(f"{folder} holds an adapter of peft ({ADAPTER}). {MERGE}")
    others = sorted(
        p for p in folder.iterdir() if p.suffix in SUFFIXES and not p.name.startswith(NO_WEIGHTS)
    )
    if len(others) == 1:
        return others[0]
    listed = ", ".join(p.name for p in others) or "none"
    raise UserError(
        f"{folder} does not say which weights to read: expected one of {', '.join(names)}; found "
        f"{listed}. Give the file itself, or get the folder again."
    )


def weight_names(config: Path | None) -> tuple[str, ...]:
    """Returns the usual names of weights, the preferred ones first, for a folder's config.json.

    OpenCLIP's names come first: timm keeps its image tower alone in model.safetensors, beside the
    whole model in OpenCLIP's file. A config.json of transformers puts transformers' names first.
    Raises UserError if the config cannot be read.
    """
    if config is not None and "model_type" in read_json(config):
        return (*WEIGHTS, *OPEN_CLIP_WEIGHTS)
    return (*OPEN_CLIP_WEIGHTS, *WEIGHTS)


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object. Raises UserError if the file cannot be read or holds another value."""
    return reading.read_json(path, remedy="Get the file again.")


def _read(path: Path) -> tuple[StateDict, mmap.mmap, dict[str, Any]]:
    """Returns (state dict, mapped pages, metadata) of one file, whatever its suffix.

    Raises UserError if the file is no weight file, or holds tuned weights alone.
    """
    if path.name in ADAPTER_WEIGHTS:
        raise UserError(f"{path} is an adapter of peft. {MERGE}")
    if path.is_file() and torch_archive.is_torch_file(path):
        file = torch_archive.read(path, passing=True)
        if isinstance(file.contents, dict) and "tuner" in file.contents:
            raise UserError(
                f"{path} is a checkpoint of LIFT's or LIFT+'s own code: it holds the tuned weights "
                "and no backbone. Give it as model.tuned, beside the backbone that was tuned."
            )
        try:
            return state_dicts.find(file.contents, str(path)), file.pages, {}
        except UserError as e:
            if not file.foreign:
                raise
            raise UserError(
                f"{e} It holds {', '.join(file.foreign[:3])}, which no plain tensor needs; nothing "
                "of it was executed."
            ) from None
    tensors, pages, texts = read_safetensors(path)
    return StateDict(tensors), pages, _stated(texts, path)


def _stated(texts: dict[str, str], path: Path) -> dict[str, Any]:
    """Returns what a file's metadata states: its entries, and over them the object under "config".

    An entry is a number, true or false, an object or a text. Raises UserError if "config" is
    anything but an object.
    """
    where = f"{path}: the config in its metadata"
    config = parse_json(texts.get("config", "{}"), where, remedy="Write the file again.")
    values: dict[str, Any] = {}
    for key, text in texts.items():
        values[key] = text
        if re.fullmatch(r"true|false|-?\d{1,9}(\.\d{1,18})?(e-?\d{1,2})?", text):
            values[key] = json.loads(text)
        elif text.startswith("{") and len(text) < LARGEST_ENTRY:
            with suppress(UserError):
                values[key] = parse_json(text, where)
    return values | config


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], mmap.mmap, dict[str, str]]:
    """Returns (views of the tensors by name, mapped pages, metadata) of a safetensors file.

    Raises UserError if the file is absent, cut short or of another kind.
    """
    try:
        with safetensors.safe_open(path, framework="np"):
            pass  # the library checks the header against the file's size
        with open(path, "rb") as file:
            pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError, safetensors.SafetensorError) as e:
        kind = "safetensors" if path.suffix == ".safetensors" else "a PyTorch file or safetensors"
        raise UserError(
            f"Cannot read {path} as {kind} ({_describe(path) or e}). The file may be absent,"
            " cut short or not a weight file: get it again."
        ) from e
    size = int.from_bytes(pages[:8], "little")
    header = parse_json(pages[8 : 8 + size], f"{path}: its header", remedy="Get it again.")
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        if entry["dtype"] not in _DTYPES:
            raise UserError(
                f"{path} stores {name[:80]} as {entry['dtype']}; expected one of "
                f"{', '.join(_DTYPES)}. Write the file again with one of these."
            )
        start, end = entry["data_offsets"]
        data = memoryview(pages)[8 + size + start : 8 + size + end]
        try:
            tensors[name] = tensor(data, np.dtype(_DTYPES[entry["dtype"]]), entry["shape"])
        except ValueError as e:
            raise UserError(
                f"Cannot read {path}: {name[:80]} is {e}. It may be damaged. Get it again."
            ) from e
    return tensors, pages, metadata


def _describe(path: Path) -> str:
    """Describes a file that is not safetensors, by its first bytes; "" for an unknown kind."""
    if path.is_dir():
        return "it is a folder"
    kinds: list[tuple[Callable[[bytes], bool], str]] = [
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
    return next((text for test, text in kinds if test(start)), "")
