"""Errors of a disk that is full, read-only, gone or broken: one line each, and checks before work.

Every OSError of these kinds becomes a DiskError here, and nowhere else.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lift_jax.errors import DiskError, UserError
from lift_jax.storage import temporary

Name = str | os.PathLike[str]

_WRITABLE = "Make it writable, or give another place"
REMEDIES = {  # what to do, by the kind of error
    errno.ENOSPC: "Make room on the disk",
    errno.EDQUOT: "Make room within the quota",
    errno.EFBIG: "Lift the limit on the size of files (ulimit -f)",
    errno.EROFS: _WRITABLE,
    errno.EACCES: _WRITABLE,
    errno.EPERM: _WRITABLE,
    errno.EIO: "Check the disk, or give another place",
    errno.ENOENT: "Put the folder back, or give another place",
    errno.ESTALE: "Put the folder back, or give another place",
    errno.ENOTDIR: "Move the file away that lies where a folder belongs, or give another place",
    errno.EISDIR: "Move the folder away that lies where a file belongs, or give another place",
    errno.EEXIST: "Move away what lies there, or give another place",
    errno.ENOTEMPTY: "Move away what lies there, or give another place",
    errno.ENAMETOOLONG: "Give a shorter name",
}


@contextmanager
def disk_errors(place: Name = "") -> Iterator[None]:
    """Turns errors of the disk into DiskError; other errors pass, such as those of a network.

    Wrap it around code that writes to `place`, a file or folder. Without one the message names the
    file that the system names.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in REMEDIES or type(error).__module__ != "builtins":
            raise  # subclasses in libraries number their errors differently: ssl has a 1 too
        named = error.filename2 or error.filename
        named = "" if not isinstance(named, str | bytes) else os.fsdecode(named)
        if not named or named.endswith(".tmp"):
            named = os.fspath(place)
        written = place and named.startswith(os.fspath(place))
        what = f"Cannot {'write' if written else 'use'} {named or 'the disk'}"
        raise DiskError(
            f"{what}: {error.strerror}. {REMEDIES[error.errno]}, then run the same command again; "
            "what is complete is kept."
        ) from error


def make_folder(folder: Path, option: str) -> Path:
    """Makes a folder where there is none, and returns it.

    Raises UserError, which names the option that gave it, if it cannot be made or written.
    """
    probe = temporary.beside(folder / "probe")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary.remove_stale(folder / "probe")
        try:
            probe.write_bytes(b"x")
        finally:
            probe.unlink(missing_ok=True)
    except (OSError, ValueError) as error:  # ValueError for a name that no system allows
        why = getattr(error, "strerror", None) or error
        kind = getattr(error, "errno", None)
        raise (DiskError if kind in (errno.ENOSPC, errno.EDQUOT, errno.EIO) else UserError)(
            f"Cannot write in the folder {folder} ({option}): {why}. "
            f"{REMEDIES.get(kind or 0, 'Give another place')}."
        ) from error
    return folder


def make_place(file: Path, option: str) -> Path:
    """Makes the folder of a file that will be written, and returns the file.

    Raises UserError, which names the option that gave it, if the file cannot be written.
    """
    if file.is_dir():
        raise UserError(f"{file} ({option}) is a folder. Give the name of a file in it.")
    if file.exists() and not file.is_file():  # the file would replace the device itself
        raise UserError(f"{file} ({option}) is a device or a pipe. Give the name of a file.")
    make_folder(file.parent, option)
    if file.exists() and not os.access(file, os.W_OK):
        raise UserError(f"{file} ({option}) may not be written. Give another name.")
    return file
