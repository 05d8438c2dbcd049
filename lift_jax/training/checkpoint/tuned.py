"""Tuned leaves from the checkpoints of a run that may still train: nothing is changed."""

import json
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from lift_jax.storage.names import plain_name
from lift_jax.training.checkpoint.contents import (
    ABOUT,
    FOLDER,
    all_damaged,
    checksums,
    compare,
    first_line,
    split,
)
from lift_jax.training.checkpoint.scores import METRICS, Warn, best_first, scores_of
from lift_jax.training.state import State


def read_tuned(workdir: Path, warn: Warn) -> tuple[dict[str, np.ndarray], dict] | None:
    """Returns the tuned leaves of a checkpoint and its description of the run; None without any.

    It is the checkpoint with the best validation score, or the newest one if there are no scores.
    With train.ema the leaves are the averaged ones, as in `State.weights`. If the checkpoint is
    damaged, `warn` says so and the one before is read. Changes nothing, so the run may be in
    progress. Raises UserError if no checkpoint can be read.
    """
    folder = (workdir / FOLDER).absolute()
    if not (steps := best_first(workdir)):
        return None
    for step in sorted(set(steps) - scores_of(folder, steps).keys()):
        if (file := folder / str(step) / METRICS).exists():
            warn(f"{file} is damaged, so that checkpoint counts as not validated.")
    faults: dict[int, str] = {}
    with plain_name(folder) as plain:
        for step in steps:
            try:
                found = _read_tuned(plain / str(step), step)
            except Exception as e:  # damage surfaces as nearly every kind of exception
                faults[step] = first_line(e).replace(str(plain), str(folder))
                continue
            for damaged, fault in faults.items():
                warn(
                    f"the checkpoint {folder}/{damaged} is damaged ({fault}). The one of step "
                    f"{step} is used."
                )
            return found
    raise all_damaged(folder, faults)


def _read_tuned(checkpoint: Path, step: int) -> tuple[dict[str, np.ndarray], dict]:
    """Reads tuned leaves and description of one checkpoint. Raises ValueError for a wrong one."""
    text = (checkpoint / ABOUT / "metadata").read_text(encoding="utf-8")
    about, expected = split(json.loads(text))
    # the handler alone: a Checkpointer would warn that the part of a checkpoint is no whole one
    reader = ocp.PyTreeCheckpointHandler()
    state = epath.Path(checkpoint / "state")
    saved = reader.metadata(state)
    part = "ema" if "ema" in saved.tree else "tuned"  # as `State.weights`
    wanted = {"step": saved.tree["step"], part: saved.tree[part]}
    host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
    args = ocp.args.PyTreeRestore(item=wanted, restore_args=host, partial_restore=True)
    found = reader.restore(state, args=args)
    compare(checksums(State(**({"tuned": {}, "opt": ()} | found))), expected)
    if int(found["step"]) != step:
        raise ValueError(f"it holds step {int(found['step'])}")
    return found[part], about
