"""Run folders at an address (gs://, s3://, any that fsspec knows), worked on in a local copy.

The copy is sent up while the run goes on, whole files at a time; a checkpoint counts there once its
last file has arrived. So a run that is killed on one machine continues on another.
"""

import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
from orbax.checkpoint.utils import TMP_DIR_SUFFIX
from rich.console import Console

from lift_jax.errors import UserError
from lift_jax.storage.addresses import file_system, is_remote
from lift_jax.storage.cache import cache_folder

SECONDS = 15.0  # between two looks at what is new
MARKER = (
    "_CHECKPOINT_METADATA"  # of a checkpoint's files the last to go up, the first to be deleted
)


@contextmanager
def worked_on(address: str, console: Console) -> Iterator[str]:
    """The local copy of a run folder, kept up there; a path of this machine is itself.

    Process 0 brings down what is there and sends all changes; another process has an empty folder
    of its own. Raises UserError for an address that cannot be used, and if what is new cannot be
    sent: the copy is kept then, and named.
    """
    if not is_remote(address):
        yield address
        return
    parent = cache_folder() / "remote"
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=parent))
    if jax.process_index() != 0:
        yield str(folder)
        shutil.rmtree(folder)
        return
    mirror = Mirror(address, folder)
    mirror.pull()
    console.print(f"{address} is worked on in {folder}.", markup=False, highlight=False)
    done = threading.Event()

    def keep_up() -> None:
        told = False
        while not done.wait(SECONDS):
            try:
                mirror.push()
            except Exception as error:  # of any file system; the run goes on, and it is tried again
                if not told:
                    console.print(f"Warning: cannot send to {address}: {error}", markup=False)
                told = True

    thread = threading.Thread(target=keep_up, daemon=True)
    thread.start()
    try:
        yield str(folder)
    finally:
        done.set()
        thread.join()
        try:
            mirror.push()
        except Exception as error:  # as above
            raise UserError(
                f"Cannot send to {address}: {error}. The run folder is kept in {folder}: copy it "
                "there, and run the same command to continue."
            ) from error
        console.print(f"Written to {address}.", markup=False, highlight=False)
        shutil.rmtree(folder)


class Mirror:
    """Two folders, one at an address of fsspec, and what is equal in both."""

    def __init__(self, address: str, folder: Path):
        """Raises UserError for an address of an unknown kind."""
        self.folder = folder
        self.fs, self.root = file_system(address)
        self._sent: dict[str, tuple[int, int]] = {}  # by path: bytes and time of change

    def pull(self) -> None:
        """Copies what is up there, but checkpoints that are not complete."""
        try:
            there = self.fs.find(self.root) if self.fs.exists(self.root) else []
            prefix = self.root.rstrip("/") + "/"
            names = {path.removeprefix(prefix): path for path in map(str, there)}
            complete = {_checkpoint(name) for name in names if name.endswith(MARKER)}
            for name, path in names.items():
                if _checkpoint(name) not in complete | {""}:
                    continue
                target = self.folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                self.fs.get_file(path, str(target))
                self._sent[name] = _state(target)
        except Exception as error:  # of any file system: no permission, no such bucket, no network
            raise UserError(f"Cannot read {self.root} (--workdir): {error}") from error

    def push(self) -> None:
        """Copies what is new or changed here, and deletes there what has been deleted here."""
        here: dict[str, tuple[int, int]] = {}
        for parent, _, files in os.walk(self.folder):
            for path in (Path(parent, file) for file in files):
                name = path.relative_to(self.folder).as_posix()
                unfinished = TMP_DIR_SUFFIX in name or path.name.startswith(".")
                try:
                    here |= {} if unfinished else {name: _state(path)}
                except FileNotFoundError:
                    pass  # of an old checkpoint, which is just being deleted
        # one that is half deleted goes whole, or it would count as damaged up there
        going = {_checkpoint(name) for name in self._sent.keys() - here.keys()} - {""}
        here = {name: state for name, state in here.items() if _checkpoint(name) not in going}
        for name in sorted(self._sent.keys() - here.keys(), key=lambda n: not n.endswith(MARKER)):
            self.fs.rm_file(f"{self.root}/{name}")
            del self._sent[name]
        for name in sorted(here, key=lambda n: n.endswith(MARKER)):
            if self._sent.get(name) == here[name]:
                continue
            target = f"{self.root}/{name}"
            self.fs.makedirs(target.rpartition("/")[0], exist_ok=True)
            try:
                self.fs.put_file(str(self.folder / name), target)
            except FileNotFoundError:
                if (self.folder / name).exists():
                    raise
                continue
            self._sent[name] = here[name]


def _checkpoint(name: str) -> str:
    """The folder of the checkpoint that a file belongs to; "" for others."""
    head, middle, tail = name.rpartition("checkpoints/")
    return f"{head}{middle}{tail.partition('/')[0]}" if "/" in tail and middle else ""


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns
