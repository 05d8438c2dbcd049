"""Files of rows of one shape and type, memory-mapped, with a checksum and a key."""

import contextlib
import math
import time
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lift_jax.storage import atomic

STALE_SECONDS = 86400  # age from which an unfinished file belongs to a process that was killed
TRAILER = 8 + 64  # bytes after the rows: their CRC-32 and the key, both in hexadecimal


@dataclass(frozen=True)
class RowFile:
    """A file of rows, which may not exist yet.

    It holds the rows, their CRC-32 and the key.

    Attributes:
        path: path of the file.
        key: hash of everything on which the rows depend.
        shape: shape of all rows, [images ...].
        dtype: type of the rows.
    """

    path: Path
    key: str
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def size(self) -> int:
        """Returns the size of the rows in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self) -> np.ndarray | None:
        """Returns the memory-mapped rows; None if the file is absent, damaged or of another key."""
        try:
            if self.path.stat().st_size != self.size + TRAILER:
                return None
            with open(self.path, "rb") as opened:
                opened.seek(self.size)
                trailer = opened.read()
            content = np.memmap(self.path, np.uint8, "r", shape=(self.size,))
        except OSError:
            return None
        rows = content.view(self.dtype).reshape(self.shape)
        return rows if trailer == f"{zlib.crc32(content.data):08x}{self.key}".encode() else None

    def write(self, parts: Iterable[np.ndarray]) -> int:
        """Writes the rows, part by part, and returns their number.

        Keeps no file of fewer rows than `shape` has. Raises DiskError if it cannot be written.
        """
        done = crc = 0
        with atomic.replacement(self.path) as partial, open(partial, "wb") as out:
            for rows in parts:
                content = np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data
                out.write(content)
                done, crc = done + len(rows), zlib.crc32(content, crc)
            out.write(f"{crc:08x}{self.key}".encode())
        if done < self.shape[0]:
            self.path.unlink(missing_ok=True)
        return done


def make_room(folder: Path, most: float) -> None:
    """Deletes the least recently used files of a folder until they have at most `most` bytes."""
    files = []
    for file in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another run may have deleted it
            files.append((file.stat().st_mtime, file.stat().st_size, file))
    total = sum(size for _, size, _ in files)
    for used, size, file in sorted(files):
        if total > most and (file.suffix == ".rows" or time.time() - used > STALE_SECONDS):
            file.unlink(missing_ok=True)
            total -= size
