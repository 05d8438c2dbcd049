"""One writer a folder: a lock that ends with its process, however that ends.

The system holds it (flock), on the file .writer.lock in the folder. Beside it .writer.json says who
it is. On a file system without locks a warning says that nothing keeps a second process out.
"""

import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import filelock

from lift_jax.errors import UserError
from lift_jax.storage import atomic, disk, temporary

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)
_HELD: set[Path] = set()  # by this process, whose own functions may call each other


@contextmanager
def one_writer(folder: Path, part: str = "") -> Iterator[None]:
    """Keeps other processes from writing in a folder of this machine or of a network.

    Args:
        folder: must exist.
        part: the name of what this process writes there, if others may write the rest; "" for all.

    Raises UserError at once, naming the holder, if another process writes there.
    """
    file = folder / f".writer{part}.lock"
    lock = filelock.FileLock(file, fallback_to_soft=False)
    about = folder / f".writer{part}.json"
    place = about.resolve()
    if place in _HELD:
        yield
        return
    try:
        with disk.disk_errors(folder):
            atomic.make_way(file)
            lock.acquire(timeout=0)
    except filelock.Timeout:
        raise UserError(
            f"{folder} is being written by {describe(_read(about))}. Wait until it ends, stop it, "
            "or give another folder."
        ) from None
    except (OSError, NotImplementedError) as error:  # NotImplementedError: a system without flock
        if isinstance(error, OSError) and error.errno not in NO_LOCKS:
            raise
        atomic.warn(
            f"{folder} lies on a file system without locks: take care that no second process "
            "writes there."
        )
        yield
        return
    _HELD.add(place)
    try:
        if not part:  # else others may write in the folder as well
            with disk.disk_errors(folder):
                temporary.remove_all(folder)
        atomic.write_json(about, this_process())
        yield
    finally:
        _HELD.discard(place)
        with suppress(OSError):  # a disk that has become read-only; both files may stay
            about.unlink(missing_ok=True)
            file.unlink(missing_ok=True)  # a process that waits for it notices that it is gone
        lock.release()


def this_process() -> dict[str, Any]:
    """Returns who this process is: host, process id and since when it writes."""
    since = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    return {"host": socket.gethostname(), "process": os.getpid(), "since": since}


def describe(holder: dict[str, Any]) -> str:
    """Returns `this_process` of another process as words for a message."""
    if not holder:
        return "another process"
    return f"process {holder['process']} on {holder['host']} since {holder['since']}"


def _read(about: Path) -> dict[str, Any]:
    """Returns who holds a lock; {} if that is not written yet, or cannot be read."""
    try:
        holder = json.loads(about.read_text(encoding="utf-8"))
        return holder if holder.keys() >= {"host", "process", "since"} else {}
    except (OSError, ValueError, AttributeError):
        return {}
