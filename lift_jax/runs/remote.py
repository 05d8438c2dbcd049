"""Run folders at an address (gs://, s3://, any that fsspec knows), used as a local copy.

New files are uploaded while the run goes on. A checkpoint at the address is complete once its last
file has arrived. So a run that is killed on one machine continues on another.
"""

import os
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import jax
from orbax.checkpoint.utils import TMP_DIR_SUFFIX
from rich.console import Console

from lift_jax.errors import UserError
from lift_jax.storage import atomic, disk, lease, temporary
from lift_jax.storage.addresses import file_system, is_remote
from lift_jax.storage.cache import cache_folder
from lift_jax.storage.names import expand_user

SECONDS = 15.0  # between two uploads
COPY = ".copy"  # ends the names of the local copies of writers
UNSENT = ".unsent"  # a file of a copy that holds what could not be sent: the address
MARKER = "_CHECKPOINT_METADATA"  # the file of a checkpoint that is uploaded last and deleted first


@contextmanager
def local_copy(address: str, console: Console, writes: bool = True) -> Iterator[str]:
    """Yields a local copy of the run folder at an address, and uploads its changes if it `writes`.

    Process 0 downloads the folder first, and uploads every 15 seconds and at the end; other
    processes get an empty folder. A path of this machine is yielded, with ~ expanded.

    Raises UserError if the address cannot be used, if another process writes there, and if the last
    upload fails: the message then names the local copy, which is kept. Otherwise it is removed. The
    next call removes that of a killed process, unless it holds what could not be sent.
    """
    if not is_remote(address):
        yield str(expand_user(address))
        return
    parent = disk.make_folder(cache_folder() / "remote", "XDG_CACHE_HOME")
    if jax.process_index() != 0 or not writes:
        with atomic.temporary_folder(parent, "copy") as folder:
            if jax.process_index() == 0:
                Mirror(address, folder).pull()
            yield str(folder)
        return
    _remove_left(parent, console)
    name = temporary.beside(parent / "run", uuid.uuid4().hex[:8]).with_suffix(COPY).name
    folder = parent / name.lstrip(".")
    folder.mkdir(mode=0o700)
    mirror = Mirror(address, folder)
    try:
        with lease.one_writer(mirror.fs, mirror.root, address) as mirror.may_write:
            mirror.pull()
            console.print(f"{address} is worked on in {folder}.")
            with _uploading(mirror, console):
                yield str(folder)
    finally:
        if not mirror.unsent:
            temporary.remove(folder)


def _remove_left(parent: Path, console: Console) -> None:
    """Removes the local copies of killed processes, and names those with what could not be sent."""
    for folder in filter(temporary.is_left, parent.glob(f"*{COPY}")):
        note = folder / UNSENT
        if note.exists():
            console.print(
                f"Warning: {folder} holds what could not be sent to "
                f"{note.read_text(errors='replace')}. Copy it there unless a later run has written "
                "there, then delete it."
            )
        else:
            temporary.remove(folder)


@contextmanager
def _uploading(mirror: "Mirror", console: Console) -> Iterator[None]:
    """Uploads changes now and then, and at the end. Raises UserError if that last time fails.

    An error of the block itself goes on, and then a warning says what the last upload met.
    """
    done = threading.Event()
    thread = threading.Thread(target=_upload_until, args=(done, mirror, console), daemon=True)
    thread.start()
    try:
        yield
    except BaseException:
        if failure := _last_upload(mirror, done, thread, console):
            console.print(f"Warning: {failure}")
        raise
    if failure := _last_upload(mirror, done, thread, console):
        raise UserError(failure)


def _last_upload(
    mirror: "Mirror", done: threading.Event, thread: threading.Thread, console: Console
) -> str:
    """Ends the thread and uploads what is left; returns why it could not be sent, else ""."""
    done.set()
    thread.join()
    try:
        mirror.push()
    except Exception as error:  # every kind of file system has errors of its own
        return (
            f"Cannot send to {mirror.address}: {error}. The run folder is kept in {mirror.folder}: "
            f"copy it to {mirror.address}, and run the same command to continue."
        )
    console.print(f"Written to {mirror.address}.")
    return ""


def _upload_until(done: threading.Event, mirror: "Mirror", console: Console) -> None:
    """Uploads changes every `SECONDS` until `done` is set. Prints a warning once if that fails."""
    warned = False
    while not done.wait(SECONDS):
        try:
            mirror.push()
        except Exception as error:  # the run goes on, and the next upload tries again
            if not warned:
                console.print(f"Warning: cannot send to {mirror.address}: {error}")
            warned = True


class Mirror:
    """A local folder and a folder at an address, and a note of the files that are equal in both.

    Args:
        address: of the folder in a file system that fsspec knows.
        folder: the local folder.

    Raises UserError if the kind of address is unknown.
    """

    def __init__(self, address: str, folder: Path):
        self.address, self.folder = address, folder
        self.fs, self.root = file_system(address)
        self.may_write: Callable[[], bool] = lambda: True
        self.unsent = False  # True if the folder holds what the address lacks
        self._sent: dict[str, tuple[int, int]] = {}  # size and time of change, by relative path

    def pull(self) -> None:
        """Downloads all files except those of checkpoints that are not complete.

        Raises UserError if the address cannot be read.
        """
        try:
            paths = self.fs.find(self.root) if self.fs.exists(self.root) else []
            prefix = self.root.rstrip("/") + "/"
            names = {path.removeprefix(prefix): path for path in map(str, paths)}
            complete = {_checkpoint(name) for name in names if name.endswith(MARKER)}
            for name, path in names.items():
                claim = name.startswith(f"{lease.CLAIMS}/")
                if claim or _checkpoint(name) not in complete | {""}:
                    continue
                target = self.folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                self.fs.get_file(path, str(target))
                self._sent[name] = _state(target)
        except Exception as error:  # no permission, no such bucket, no network: all differ
            raise UserError(f"Cannot read {self.root} (--workdir): {error}") from error

    def push(self) -> None:
        """Uploads new and changed files, and deletes at the address what has been deleted here.

        If that fails the folder holds the file `UNSENT` until it succeeds. Raises UserError if
        another process writes there meanwhile.
        """
        note = self.folder / UNSENT
        try:
            self._push()
        except BaseException:
            self.unsent = True
            with suppress(OSError):  # this disk is full, say
                note.write_text(self.address)
            raise
        self.unsent = False
        note.unlink(missing_ok=True)
        os.utime(self.folder)  # shows processes of other containers that this one lives

    def _push(self) -> None:
        if not self.may_write():
            raise UserError(
                f"the claim to it was not renewed for {lease.STALE / 60:g} minutes, and another "
                "process may write there"
            )
        local = self._local_files()
        # a checkpoint that is half deleted here is deleted whole, else it would count as damaged
        going = {_checkpoint(name) for name in self._sent.keys() - local.keys()} - {""}
        local = {name: state for name, state in local.items() if _checkpoint(name) not in going}
        for name in sorted(self._sent.keys() - local.keys(), key=lambda n: not n.endswith(MARKER)):
            self.fs.rm_file(f"{self.root}/{name}")
            del self._sent[name]
        for name in sorted(local, key=lambda n: n.endswith(MARKER)):
            if self._sent.get(name) == local[name]:
                continue
            target = f"{self.root}/{name}"
            self.fs.makedirs(target.rpartition("/")[0], exist_ok=True)
            try:
                self.fs.put_file(str(self.folder / name), target)
            except FileNotFoundError:
                if (self.folder / name).exists():
                    raise
                continue  # deleted meanwhile
            self._sent[name] = local[name]

    def _local_files(self) -> dict[str, tuple[int, int]]:
        """Returns the state of every local file that is complete, by relative path."""
        states = {}
        for parent, _, files in os.walk(self.folder):
            for path in (Path(parent, file) for file in files):
                name = path.relative_to(self.folder).as_posix()
                if TMP_DIR_SUFFIX in name or path.name.startswith("."):
                    continue
                try:
                    states[name] = _state(path)
                except FileNotFoundError:
                    pass  # part of an old checkpoint that is just being deleted
        return states


def _checkpoint(name: str) -> str:
    """Returns the folder of the checkpoint that a file belongs to; "" for any other file."""
    head, middle, tail = name.rpartition("checkpoints/")
    return f"{head}{middle}{tail.partition('/')[0]}" if "/" in tail and middle else ""


def _state(path: Path) -> tuple[int, int]:
    """Returns the size in bytes and the time of change of a file, by which a change is noticed."""
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns
