"""A disk that is full from some write on, for commands that are run in this process."""

import builtins
import errno
import io
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

CALLS = ((os, "replace"), (os, "rename"), (os, "mkdir"), (os, "fsync"), (os, "open"))
OPENERS = ((builtins, "open"), (io, "open"))


@contextmanager
def full_disk(folder: Path, after: int, code: int = errno.ENOSPC) -> Iterator[list[str]]:
    """Lets every write below a folder fail after the first `after`; yields the writes by name.

    A write is a call that makes, fills, names or flushes a file, from whichever library or thread.
    """
    count, writes = itertools.count(), []

    def check(name: str, path: object) -> None:
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        path = os.path.abspath(os.fspath(path))  # type: ignore[call-overload]
        if isinstance(path, str) and path.startswith(str(folder)):
            writes.append(f"{name} {path}")
            if next(count) >= after:
                raise OSError(code, os.strerror(code), path)

    def failing(module, name):
        call = getattr(module, name)

        def opened(path, mode="r", *rest, **options):
            if set(mode) & set("wax+"):
                check("open", path)
            return call(path, mode, *rest, **options)

        def called(path, *rest, **options):
            reads = name == "open" and not rest[0] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if not reads and not (name == "mkdir" and os.path.isdir(path)):
                check(name, path)
            return call(path, *rest, **options)

        return opened if (module, name) in OPENERS else called

    with pytest.MonkeyPatch.context() as patch:
        for module, name in (*CALLS, *OPENERS):
            patch.setattr(module, name, failing(module, name))
        yield writes
