"""One writer an address: claims that processes write there and renew while they run.

Object stores have no locks. So each process writes a small file of its own, .writers/NAME.json, and
then looks for those of others. A claim that has not been renewed for `STALE` seconds belongs to a
process that is gone. Ages are differences of the store's own times, so the clocks of the machines
do not matter.
"""

import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lift_jax.errors import UserError
from lift_jax.storage.lock import describe, this_process
from lift_jax.storage.temporary import is_alive

CLAIMS = ".writers"  # the folder of the claims, which is no part of the run
RENEW = 30.0  # seconds between two renewals of a claim
STALE = 300.0  # seconds without renewal after which a claim is ignored


@contextmanager
def one_writer(fs: Any, root: str, address: str) -> Iterator[Callable[[], bool]]:
    """Keeps other processes from writing at an address.

    Yields a function that returns True as long as this process may write there. If two processes
    begin in the same second, both may be refused. Raises UserError at once, naming the holder, if
    another process writes there, and if the address cannot be written.

    Args:
        fs, root: fsspec's file system of the address, and the path in it.
        address: for messages.
    """
    own = f"{root}/{CLAIMS}/{uuid.uuid4().hex}.json"
    claim = json.dumps({**this_process(), "machine": _machine()}).encode()
    try:
        fs.makedirs(f"{root}/{CLAIMS}", exist_ok=True)
        fs.pipe_file(own, claim)
        holder = _living(fs, root, own)
    except Exception as error:  # every kind of file system has errors of its own
        _remove(fs, own)
        raise UserError(f"Cannot write to {address} (--workdir): {error}") from error
    if holder is not None:
        _remove(fs, own)
        raise UserError(
            f"{address} is being written by {describe(holder)}. Wait until it ends, stop it, or "
            f"give another folder. (If it is gone, try again in {STALE / 60:g} minutes.)"
        )
    done, renewed = threading.Event(), [time.monotonic()]
    thread = threading.Thread(target=_renew, args=(fs, own, claim, done, renewed), daemon=True)
    thread.start()
    try:
        yield lambda: time.monotonic() - renewed[-1] < STALE
    finally:
        done.set()
        thread.join()
        _remove(fs, own)


def _living(fs: Any, root: str, own: str) -> dict[str, Any] | None:
    """Returns who else writes at an address, None for nobody; {} if the claim does not say who.

    Removes claims of dead processes.
    """
    fs.invalidate_cache()
    now = fs.modified(own)
    for path in map(str, fs.ls(f"{root}/{CLAIMS}", detail=False)):
        if path.rpartition("/")[2] == own.rpartition("/")[2]:
            continue
        holder: dict[str, Any] = {}
        try:
            age = (now - fs.modified(path)).total_seconds()
            written = json.loads(fs.cat_file(path))
            holder = written if isinstance(written, dict) else {}
        except FileNotFoundError:
            continue  # ended meanwhile
        except ValueError:  # it is being written
            age = 0.0
        if age < STALE and not _is_dead(holder):
            return holder if holder.keys() >= {"host", "process", "since"} else {}
        _remove(fs, path)
    return None


def _renew(fs: Any, own: str, claim: bytes, done: threading.Event, renewed: list[float]) -> None:
    """Renews a claim until `done` is set, and appends each time to `renewed`.

    Ends early if another process has removed the claim because it was stale.
    """
    while not done.wait(RENEW):
        now = time.monotonic()
        try:
            fs.invalidate_cache()
            if not fs.exists(own):
                renewed.append(-STALE)
                return
            fs.pipe_file(own, claim)
        except Exception:  # no network for a while: the next renewal tries again
            continue
        renewed.append(now)


def _remove(fs: Any, path: str) -> None:
    with suppress(Exception):  # it is gone, or will count as stale
        fs.rm_file(path)


def _machine() -> str:
    """Returns this boot of the machine and the PID namespace, "" where the system does not tell.

    Processes for which it is the same can see each other's numbers.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _is_dead(holder: dict[str, Any]) -> bool:
    """Returns True if a holder ran on this machine and has ended; False if that is unknown."""
    is_here = bool(holder.get("machine")) and holder["machine"] == _machine()
    process = holder.get("process")
    return is_here and isinstance(process, int) and not is_alive(process)
