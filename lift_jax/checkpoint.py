"""Checkpoints: orbax behind five functions.

A checkpoint holds the state (tuned leaves, optimizer, step) and, as JSON, what it belongs to: the
config, the classes and a fingerprint of the frozen weights. Megabytes, not the backbone.
"""

import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from rich.console import Console

from lift_jax.errors import UserError
from lift_jax.state import State

CHECKSUMS = "checksums"  # beside what a checkpoint belongs to


def open_manager(workdir: Path, keep: int) -> ocp.CheckpointManager:
    """The manager of `workdir`/checkpoints: saves in the background, whole or not at all."""
    folder = (workdir / "checkpoints").absolute()
    if jax.process_index() == 0:
        # what a killed save left; orbax's own cleaning is a thread that may outlive the program
        for torn in folder.glob(f"*{ocp.utils.TMP_DIR_SUFFIX}*"):
            shutil.rmtree(torn)
    return ocp.CheckpointManager(folder, options=ocp.CheckpointManagerOptions(max_to_keep=keep))


def save(manager: ocp.CheckpointManager, state: State, about: dict) -> None:
    """Saves under the state's step; returns once the arrays are copied, not yet written.

    Raises UserError if an earlier save could not be written, for they are written meanwhile.
    """
    about = {**about, CHECKSUMS: checksums(state)}
    args = ocp.args.Composite(state=ocp.args.StandardSave(state), about=ocp.args.JsonSave(about))
    with _writing(manager):
        manager.save(int(state.step), args=args)


def wait(manager: ocp.CheckpointManager) -> None:
    """Returns once everything is written. Raises UserError if it cannot be."""
    with _writing(manager):
        manager.wait_until_finished()


def describe(manager: ocp.CheckpointManager) -> dict | None:
    """What the newest checkpoint that says so belongs to; None where there is none.

    Raises UserError if there are some, but none can be read.
    """
    faults = {}
    for step in _newest_first(manager):
        try:
            return _about(manager, step)
        except Exception as e:  # as in `restore`
            faults[step] = e
    if faults:
        raise _all_damaged(manager, faults)
    return None


def restore(manager: ocp.CheckpointManager, like: State, console: Console) -> State:
    """The newest checkpoint's state, placed as `like` is.

    A checkpoint that cannot be read, or whose values are not those that were saved, is moved aside
    and the one before it taken, which is told. Raises UserError if none is left.
    """
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    faults = {}
    for step in _newest_first(manager):
        try:
            wanted = _read(manager, step, "about", ocp.args.JsonRestore())[CHECKSUMS]
            state = _read(manager, step, "state", ocp.args.StandardRestore(abstract))
            if wrong := [name for name, sum in checksums(state).items() if wanted.get(name) != sum]:
                raise ValueError(f"the values of {wrong[0]} are not those that were saved")
        # Damage surfaces as nearly every kind of exception, and the remedy is the same for all.
        except Exception as e:
            faults[step] = e
            continue
        for bad, error in faults.items():
            aside = _move_aside(manager, bad)
            console.print(
                f"Warning: the checkpoint of step {bad} is damaged ({_line(error)}). It was moved "
                f"to {aside}, and the run continues from step {step}.",
                markup=False,
            )
        if faults:
            manager.reload()
        return state
    raise _all_damaged(manager, faults)


def checksums(state: State) -> dict[str, int]:
    """The CRC-32 of every leaf's bytes, by path."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {
        jax.tree_util.keystr(path): zlib.crc32(np.ascontiguousarray(leaf).tobytes())
        for path, leaf in leaves
    }


def _newest_first(manager: ocp.CheckpointManager) -> list[int]:
    return sorted(manager.all_steps(), reverse=True)


def _about(manager: ocp.CheckpointManager, step: int) -> dict:
    about = _read(manager, step, "about", ocp.args.JsonRestore())
    return {key: value for key, value in about.items() if key != CHECKSUMS}


def _read(
    manager: ocp.CheckpointManager, step: int, item: str, args: ocp.args.CheckpointArgs
) -> Any:
    return manager.restore(step, args=ocp.args.Composite(**{item: args}))[item]


def _move_aside(manager: ocp.CheckpointManager, step: int) -> Path:
    """Moves a damaged checkpoint out of the way; nothing is deleted."""
    folder = Path(manager.directory)
    aside = folder.parent / f"damaged_checkpoint_{step}"
    if jax.process_index() == 0:
        if aside.exists():
            shutil.rmtree(aside)
        (folder / str(step)).rename(aside)
    multihost_utils.sync_global_devices("a damaged checkpoint was moved")
    return aside


def _all_damaged(manager: ocp.CheckpointManager, faults: dict[int, Exception]) -> UserError:
    listed = "\n  ".join(f"{manager.directory}/{step}: {_line(e)}" for step, e in faults.items())
    return UserError(
        f"No checkpoint of this run can be read:\n  {listed}\nRestore them from a copy, delete "
        f"{manager.directory} to begin anew, or give another --workdir."
    )


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


@contextmanager
def _writing(manager: ocp.CheckpointManager) -> Iterator[None]:
    try:
        yield
    # orbax writes in the background and hands on whatever went wrong there
    except Exception as e:
        raise UserError(
            f"Cannot save a checkpoint in {manager.directory}: {_line(e)}. Those that are complete "
            "are intact: make room, or the folder writable, and run the same command to continue."
        ) from e
