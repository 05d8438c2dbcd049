"""PyTorch's own files without PyTorch: `torch.save` in both its formats, and `torch.jit.save`.

Tensors come back as read-only arrays that lie in the mapped file: nothing is read before its use,
and no second copy is made. What a file asks to call is never executed (pickles.py).
"""

import mmap
import string
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lift_jax.errors import UserError
from lift_jax.weights.files.pickles import (
    LARGEST_PICKLE,
    ForeignError,
    Module,
    expect,
    part,
    unpickle,
)

ZIP = b"PK\x03\x04"
MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")  # a pickled number opens a legacy file
MOST_NAMES, LONGEST_NAME = 100_000, 1000  # of the modules in a TorchScript archive
WRAPPERS = ("state_dict", "model", "model_state_dict")

# What a damaged file makes this code, zipfile and pickletools raise: caught, and told as one error.
DAMAGE = (
    ValueError, TypeError, LookupError, OverflowError, EOFError, OSError, struct.error,
    zipfile.BadZipFile,
    NotImplementedError,  # zipfile's, where the index says that reading takes a newer zip format
)  # fmt: skip


@dataclass(frozen=True)
class TorchFile:
    """What a file holds: dicts, lists, tuples and scalars as saved, and arrays that lie in `pages`.

    The arrays keep the map open. `pages.madvise(mmap.MADV_DONTNEED)` gives back what was read.
    """

    contents: Any
    pages: mmap.mmap


def is_torch_file(path: Path) -> bool:
    """Says by the first bytes whether a file may be PyTorch's: a zip file, or its legacy magic."""
    return _is_torch(_head(path))


def read(path: Path) -> TorchFile:
    """Maps a file of `torch.save`, or the tensors of a `torch.jit.save` under their dotted names.

    Raises UserError if the file is absent, not PyTorch's, damaged, or holds anything but dense
    tensors of the usual dtypes in plain containers.
    """
    head = _head(path)
    if not _is_torch(head):
        raise UserError(f"{path} {_what_else(head)}; expected a PyTorch file. Get it again.")
    try:
        with path.open("rb") as file:
            pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        contents = _read_zip(path, pages) if head.startswith(ZIP) else _read_legacy(pages)
        contents = _tensors_of(contents) if isinstance(contents, Module) else contents
    except ForeignError as e:
        raise UserError(
            f"{path} holds {e}, which no plain tensor needs; nothing of it was executed. Only "
            "dense tensors are read from PyTorch's files: if you trust this one, load it with "
            "PyTorch and save the state dict alone, as safetensors or by "
            "torch.save(model.state_dict(), ...)."
        ) from None
    except DAMAGE as e:
        reason = "it lacks what it refers to" if isinstance(e, LookupError) else str(e)[:200]
        raise UserError(
            f"Cannot read {path} as a PyTorch file ({reason}). It may be damaged or cut short: get "
            "it again."
        ) from e
    return TorchFile(contents, pages)


def state_dict(contents: Any, where: str) -> dict[str, np.ndarray]:
    """Returns the names and tensors in what `read` found, also inside a training checkpoint.

    One of the usual wrappers (`state_dict`, `model`, `model_state_dict`) is looked into, and the
    `module.` that DataParallel puts before every name is dropped. Raises UserError, with the keys
    that there are, if none of these is a dict of tensors.
    """
    found = contents if isinstance(contents, dict) else {}
    inner = [found[key] for key in WRAPPERS if isinstance(found.get(key), dict)]
    for tensors in (found, *inner):
        if {(type(name), type(tensor)) for name, tensor in tensors.items()} == {(str, np.ndarray)}:
            prefix = "module." if all(name.startswith("module.") for name in tensors) else ""
            return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    keys = ", ".join(f"{key!r:.80}" for key in list(found)[:20])
    raise UserError(
        f"{where} holds no state dict: expected a dict of tensors, by itself or under one of "
        f"{', '.join(WRAPPERS)}; found a {type(contents).__name__} with the keys [{keys}]. Save "
        "the state dict of the model alone."
    )


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(512)
    except OSError as e:
        raise UserError(f"Cannot read {path} ({e.strerror}). Check the path.") from e


def _is_torch(head: bytes) -> bool:
    return head.startswith(ZIP) or MAGIC in head[:32]


def _what_else(head: bytes) -> str:
    if not head:
        return "is empty"
    if head.lstrip()[:5].lower() in (b"<html", b"<!doc"):
        return "is an HTML page, perhaps the error message of a download"
    if not head.translate(None, string.printable.encode()):
        return f"is a text file that begins with {head.decode()[:60]!r}"
    return f"is of another kind or damaged: it begins with the bytes {head[:8].hex(' ')}"


def _read_zip(path: Path, pages: mmap.mmap) -> Any:
    """The format of `torch.save` since 1.6 and `torch.jit.save`: ROOT/data.pkl, ROOT/data/KEY."""
    with zipfile.ZipFile(path) as archive:
        infos = {info.filename: info for info in archive.infolist()}
        if len(infos) != len(archive.infolist()):
            raise ValueError("two of its entries have one name")
    roots = [name[:-8] for name in infos if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(roots) != 1:
        found = ", ".join(repr(name)[:80] for name in list(infos)[:5])
        raise ValueError(f"a zip file with {len(roots)} entries named data.pkl: it holds {found}")

    def record(name: str) -> memoryview:
        if roots[0] + name not in infos:
            raise ValueError(f"its entry {name} is missing")
        return _entry(pages, infos[roots[0] + name])

    if roots[0] + "byteorder" in infos and record("byteorder") != b"little":
        raise ForeignError("numbers of a big-endian machine")
    pickle = record("data.pkl")
    if len(pickle) > LARGEST_PICKLE:
        raise ValueError(f"its data.pkl is larger than {LARGEST_PICKLE} bytes")
    contents, _ = unpickle(pickle, 0, lambda dtype, key, count: record(f"data/{key}"))
    return contents


def _entry(pages: mmap.mmap, info: zipfile.ZipInfo) -> memoryview:
    """The bytes of one entry of a zip file, which must be stored as they are."""
    name = info.orig_filename.encode("utf-8" if info.flag_bits & 0x800 else "cp437")
    if info.header_offset < 0:
        raise ValueError(f"its entry {info.filename!r} lies outside the file")
    # signature, flags, compression, lengths of the name and of the extra field
    header = struct.unpack_from("<4s2xHH16xHH", pages, info.header_offset)
    start = info.header_offset + 30
    if header[0] != ZIP or pages[start : start + header[3]] != name:
        raise ValueError(f"its entry {info.filename!r} is not where its index says")
    if header[1] & 1 or header[2] or info.compress_type or info.compress_size != info.file_size:
        raise ValueError(
            f"its entry {info.filename!r} is compressed, as PyTorch does not do to tensors"
        )
    return part(memoryview(pages), start + header[3] + header[4], info.file_size)


def _read_legacy(pages: mmap.mmap) -> Any:
    """The format of `torch.save` before 1.6: five pickles, then a count and numbers per storage."""
    memory = memoryview(pages)
    position = 0
    for _ in range(3):  # the magic number, the protocol, the sizes of C types where it was saved
        _, position = unpickle(memory, position)

    # The storages follow the pickle that refers to them, with lengths in elements whose dtype only
    # that pickle says. So it is read twice: for the dtypes, then for the tensors.
    used: dict[str, tuple[np.dtype, int]] = {}

    def note(dtype: np.dtype, key: str, count: int) -> None:
        if used.setdefault(key, (dtype, count)) != (dtype, count):
            raise ValueError("two descriptions of one storage differ")

    _, end = unpickle(memory, position, note)
    keys, end = unpickle(memory, end)
    records = {}
    for key in expect(keys, list):
        dtype, count = used[expect(key, str)]
        if struct.unpack_from("<q", memory, end) != (count,):
            raise ValueError(f"expected {count} elements in the storage {key!r:.80}")
        records[key] = part(memory, end + 8, count * dtype.itemsize)
        end += 8 + count * dtype.itemsize
    contents, _ = unpickle(memory, position, lambda dtype, key, count: records[key])
    return contents


def _tensors_of(module: Module) -> dict[str, np.ndarray]:
    """The tensors of a module and the modules in it, under their dotted names."""
    tensors, waiting, names = {}, [("", module)], 0
    while waiting:
        prefix, module = waiting.pop()
        names += len(module.attributes)
        # modules may hold themselves, or each other many times over
        if names > MOST_NAMES or len(prefix) > LONGEST_NAME:
            raise ValueError("its modules are nested without end")
        for name, value in module.attributes.items():
            path = prefix + expect(name, str)
            if isinstance(value, Module):
                waiting.append((f"{path}.", value))
            elif isinstance(value, np.ndarray):
                tensors[path] = value
    return tensors
