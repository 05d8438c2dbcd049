"""Temporary names, under which files and folders are written first, and the removal of left ones.

A name tells which process of which machine and container gave it. So what killed processes left can
be told from what others are writing now. Raises OSError for folders that cannot be listed.
"""

import os
import re
import shutil
import socket
import time
from contextlib import suppress
from pathlib import Path

DAY = 24 * 60 * 60.0  # seconds


def beside(path: Path, more: str = "") -> Path:
    """Returns a path beside another under which this process may write it first.

    `remove_all`, `remove_stale` and `remove_dead` recognise the name, also with a few letters
    `more`. Only the first letters of `path` are in it, because that may be as long as is allowed.
    """
    end = f"{_process_table()}_{os.getpid()}{more and '.'}{more}.tmp"
    return path.with_name(f"{_start(path)}{end}")


def _start(path: Path) -> str:
    return f".{path.name.lstrip('.')[:40]}.{_host()}_"


def _host() -> str:
    return "".join(c for c in socket.gethostname() if c.isalnum())[:20]


def _process_table() -> str:
    """Returns the number of the PID namespace: each container on a host has its own."""
    try:
        return "".join(c for c in os.readlink("/proc/self/ns/pid") if c.isdigit())
    except OSError:
        return "0"


def remove_stale(path: Path) -> None:
    """Removes what killed processes of this machine left under their temporary names of `path`."""
    remove_dead(path.parent, _start(path))


def remove_dead(folder: Path, start: str = ".") -> None:
    """Removes what killed processes of this machine left under temporary names in a folder.

    Processes of another container cannot be seen: what one of them left goes after a day.

    Args:
        folder: may have other writers.
        start: the beginning of the names.
    """
    for left in folder.iterdir() if folder.is_dir() else ():
        if left.name.startswith(start) and left.suffix == ".tmp" and is_left(left):
            remove(left)


def is_left(path: Path) -> bool:
    """Returns True if the processes in a temporary name were killed; see `remove_dead`."""
    owners = re.compile(rf"\.{re.escape(_host())}_(?:(\d+)_)?(\d+)(?=\.)")
    found = owners.findall(path.name)  # a writer that was given a temporary name added its own
    return bool(found) and all(_is_dead(table, int(process), path) for table, process in found)


def _is_dead(table: str, process: int, left: Path) -> bool:
    if table == _process_table():
        return not is_alive(process)
    with suppress(OSError):
        return time.time() - left.lstat().st_mtime > DAY
    return False


def is_alive(process: int) -> bool:
    """Returns False if no process of this machine and container has the number."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass  # of another user, or no number of a process
    return True


def remove(path: Path) -> None:
    """Removes a file or folder, if it is there and can be removed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def remove_all(folder: Path) -> None:
    """Removes what killed processes left under temporary names in a folder with one writer."""
    for left in folder.glob(".[!.]*.tmp"):
        remove(left)
