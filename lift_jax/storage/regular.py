"""Opening of regular files. A FIFO or device is refused, because reading it could wait for ever."""

import os
import stat
from typing import BinaryIO

from lift_jax.errors import UserError

KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Opens a regular file, or a link to one, for reading.

    Raises UserError for anything else, at once; OSError if the file cannot be opened.
    """
    # O_NONBLOCK: opening a FIFO would wait for a writer. It changes nothing for regular files.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    kind = stat.S_IFMT(os.fstat(handle).st_mode)
    if kind != stat.S_IFREG:
        os.close(handle)
        found = KINDS.get(kind, "something else")
        raise UserError(f"{os.fspath(path)}: expected a regular file, found {found}.")
    return open(handle, "rb")


def read_regular(path: str | os.PathLike[str], most: int) -> bytes:
    """Returns the content of a regular file.

    Raises UserError as `open_regular` does, and if it has more than `most` bytes; OSError if it
    cannot be read.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise UserError(
                f"{os.fspath(path)} has {size:,} bytes, more than the {most:,} that such a file "
                "can have. Is it another kind of file?"
            )
        return file.read()
