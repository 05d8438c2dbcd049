"""Checkpoints: orbax behind four functions.

A checkpoint holds the state (tuned leaves, optimizer, step) and, as JSON, what it belongs to: the
config, the classes and a fingerprint of the frozen weights. Megabytes, not the backbone.
"""

import shutil
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from lift_jax.errors import UserError
from lift_jax.state import State


def open_manager(workdir: Path, keep: int) -> ocp.CheckpointManager:
    """The manager of `workdir`/checkpoints: saves in the background, whole or not at all."""
    folder = (workdir / "checkpoints").absolute()
    if jax.process_index() == 0:
        # what a killed save left; orbax's own cleaning is a thread that may outlive the program
        for torn in folder.glob(f"*{ocp.utils.TMP_DIR_SUFFIX}*"):
            shutil.rmtree(torn)
    return ocp.CheckpointManager(folder, options=ocp.CheckpointManagerOptions(max_to_keep=keep))


def save(manager: ocp.CheckpointManager, state: State, about: dict) -> None:
    """Saves under the state's step; returns once the arrays are copied, not yet written."""
    manager.save(
        int(state.step),
        args=ocp.args.Composite(state=ocp.args.StandardSave(state), about=ocp.args.JsonSave(about)),
    )


def describe(manager: ocp.CheckpointManager) -> dict | None:
    """What the newest checkpoint belongs to; None where there is none."""
    if manager.latest_step() is None:
        return None
    return _read(manager, "about", ocp.args.JsonRestore())


def restore(manager: ocp.CheckpointManager, like: State) -> State:
    """The newest checkpoint's state, placed as `like` is."""
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    return _read(manager, "state", ocp.args.StandardRestore(abstract))


def _read(manager: ocp.CheckpointManager, item: str, args: ocp.args.CheckpointArgs) -> Any:
    """One item of the newest checkpoint. Raises UserError if it cannot be read."""
    step = manager.latest_step()
    try:
        return manager.restore(step, args=ocp.args.Composite(**{item: args}))[item]
    except (ValueError, KeyError, OSError) as e:
        raise UserError(
            f"Cannot restore {manager.directory}/{step}: {e}\nDelete that folder to continue from "
            "the checkpoint before it, or give another --workdir."
        ) from e
