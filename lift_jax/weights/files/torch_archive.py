"""A reader of PyTorch's files without PyTorch: both formats of `torch.save`, and `torch.jit.save`.

Tensors are read-only arrays over the mapped file. A value is read from disk when it is used, and no
second copy is made. No code in a file is ever executed (see pickles.py).
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
MOST_NAMES, LONGEST_NAME = 100_000, 1000  # limits on the module names in a TorchScript archive

# The exceptions that this code, zipfile and pickletools raise for a damaged file. `read` turns each
# into a UserError.
DAMAGE = (
    ValueError, TypeError, LookupError, OverflowError, EOFError, OSError, struct.error,
    zipfile.BadZipFile,
    NotImplementedError,  # from zipfile, if the index asks for a newer version of the zip format
)  # fmt: skip


@dataclass(frozen=True)
class TorchFile:
    """A file's contents: dicts, lists, tuples and scalars as saved, and arrays over `pages`.

    `foreign` names the objects that were passed over, which are Foreign in the contents. The arrays
    keep the map open. `pages.madvise(mmap.MADV_DONTNEED)` gives back the memory of the pages that
    were read.
    """

    contents: Any
    pages: mmap.mmap
    foreign: tuple[str, ...] = ()


def is_torch_file(path: Path) -> bool:
    """Returns True if a file begins as PyTorch's do: as a zip file or with the legacy magic.

    Raises UserError if the file cannot be read.
    """
    return _is_torch(_head(path))


def read(path: Path, passing: bool = False) -> TorchFile:
    """Maps a file that `torch.save` or `torch.jit.save` wrote.

    A `torch.jit.save` becomes a dict from dotted names to tensors. Raises UserError if the file is
    absent, not PyTorch's or damaged, or if it holds anything but dense tensors of the usual dtypes
    in plain containers. With `passing` other objects are passed over (pickles.Foreign), as training
    stores them beside the tensors.
    """
    foreign: list[str] = []
    head = _head(path)
    if not _is_torch(head):
        raise UserError(f"{path} {_what_else(head)}; expected a PyTorch file. Get it again.")
    try:
        with path.open("rb") as file:
            pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        passed = foreign if passing else None
        zipped = head.startswith(ZIP)
        contents = _read_zip(path, pages, passed) if zipped else _read_legacy(pages, passed)
        contents = _tensors_of(contents) if isinstance(contents, Module) else contents
    except ForeignError as e:
        raise UserError(
            f"{path} holds {e}, which no plain tensor needs; nothing of it was executed. Only "
            "dense tensors are read from PyTorch's files. If you trust this file, load it with "
            "PyTorch and save the state dict alone, as safetensors or by "
            "torch.save(model.state_dict(), ...)."
        ) from None
    except DAMAGE as e:
        reason = "it lacks what it refers to" if isinstance(e, LookupError) else str(e)[:200]
        raise UserError(
            f"Cannot read {path} as a PyTorch file ({reason}). It may be damaged or cut short. Get "
            "it again."
        ) from e
    return TorchFile(contents, pages, tuple(foreign))


def _head(path: Path) -> bytes:
    """Returns a file's first 512 bytes. Raises UserError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(512)
    except OSError as e:
        raise UserError(f"Cannot read {path} ({e.strerror}). Check the path.") from e


def _is_torch(head: bytes) -> bool:
    return head.startswith(ZIP) or MAGIC in head[:32]


def _what_else(head: bytes) -> str:
    """Describes a file that is not PyTorch's, by its first bytes."""
    if not head:
        return "is empty"
    if head.lstrip()[:5].lower() in (b"<html", b"<!doc"):
        return "is an HTML page, perhaps the error message of a download"
    if not head.translate(None, string.printable.encode()):
        return f"is a text file that begins with {head.decode()[:60]!r}"
    return f"is of another kind or damaged: it begins with the bytes {head[:8].hex(' ')}"


def _read_zip(path: Path, pages: mmap.mmap, foreign: list[str] | None) -> Any:
    """Reads the zip format, which `torch.save` has written since 1.6 and `torch.jit.save` writes.

    The entry ROOT/data.pkl is a pickle, and ROOT/data/KEY the bytes of a storage.
    """
    with zipfile.ZipFile(path) as archive:
        infos = {info.filename: info for info in archive.infolist()}
        if len(infos) != len(archive.infolist()):
            raise ValueError("two of its entries have one name")
    if any(name.endswith(".npy") for name in infos):
        raise UserError(
            f"{path} is an archive of NumPy (.npz), as Google's ViTs have, which is not supported. "
            "Give the same model in timm's or Hugging Face's layout."
        )
    roots = [name[:-8] for name in infos if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(roots) != 1:
        names = ", ".join(repr(name)[:80] for name in list(infos)[:5])
        raise ValueError(f"a zip file with {len(roots)} entries named data.pkl: it holds {names}")

    def entry(name: str) -> memoryview:
        if roots[0] + name not in infos:
            raise ValueError(f"its entry {name} is missing")
        return _entry(pages, infos[roots[0] + name])

    if roots[0] + "byteorder" in infos and entry("byteorder") != b"little":
        raise ForeignError("numbers of a big-endian machine")
    pickle = entry("data.pkl")
    if len(pickle) > LARGEST_PICKLE:
        raise ValueError(f"its data.pkl is larger than {LARGEST_PICKLE} bytes")
    contents, _ = unpickle(pickle, 0, lambda dtype, key, count: entry(f"data/{key}"), foreign)
    return contents


def _entry(pages: mmap.mmap, info: zipfile.ZipInfo) -> memoryview:
    """Returns the bytes of one entry of a zip file. Raises ValueError if they are compressed."""
    name = info.orig_filename.encode("utf-8" if info.flag_bits & 0x800 else "cp437")
    if info.header_offset < 0:
        raise ValueError(f"its entry {info.filename!r} lies outside the file")
    # (signature, flags, compression, length of the name, length of the extra field)
    header = struct.unpack_from("<4s2xHH16xHH", pages, info.header_offset)
    start = info.header_offset + 30
    if header[0] != ZIP or pages[start : start + header[3]] != name:
        raise ValueError(f"its entry {info.filename!r} is not where its index says")
    if header[1] & 1 or header[2] or info.compress_type or info.compress_size != info.file_size:
        raise ValueError(
            f"its entry {info.filename!r} is compressed, as PyTorch does not do to tensors"
        )
    return part(memoryview(pages), start + header[3] + header[4], info.file_size)


def _read_legacy(pages: mmap.mmap, foreign: list[str] | None) -> Any:
    """Reads the format of `torch.save` before 1.6: five pickles, then the storages.

    A storage is its number of elements, as an int64, and the elements.
    """
    memory = memoryview(pages)
    position = 0
    for _ in range(3):  # the magic number, the protocol, the sizes of C types where it was saved
        _, position = unpickle(memory, position)

    # The storages come after the pickle that refers to them. Their lengths are in elements, and
    # only that pickle gives the dtype. So it is read twice: for the dtypes, then for the tensors.
    used: dict[str, tuple[np.dtype, int]] = {}

    def note(dtype: np.dtype, key: str, count: int) -> None:
        if used.setdefault(key, (dtype, count)) != (dtype, count):
            raise ValueError("two descriptions of one storage differ")

    _, end = unpickle(memory, position, note, foreign)
    keys, end = unpickle(memory, end)
    records = {}
    for key in expect(keys, list):
        dtype, count = used[expect(key, str)]
        if struct.unpack_from("<q", memory, end) != (count,):
            raise ValueError(f"expected {count} elements in the storage {key!r:.80}")
        records[key] = part(memory, end + 8, count * dtype.itemsize)
        end += 8 + count * dtype.itemsize
    contents, _ = unpickle(memory, position, lambda dtype, key, count: records[key], foreign)
    return contents


def _tensors_of(module: Module) -> dict[str, np.ndarray]:
    """Returns the tensors of a module and of the modules inside it, by their dotted names."""
    tensors, waiting, names = {}, [("", module)], 0
    while waiting:
        prefix, module = waiting.pop()
        names += len(module.attributes)
        # a malicious file's modules may hold themselves, or each other many times over
        if names > MOST_NAMES or len(prefix) > LONGEST_NAME:
            raise ValueError("its modules are nested without end")
        for name, value in module.attributes.items():
            path = prefix + expect(name, str)
            if isinstance(value, Module):
                waiting.append((f"{path}.", value))
            elif isinstance(value, np.ndarray):
                tensors[path] = value
    return tensors
