"""Runs for tests: from a config, as a user writes it, to a run folder."""

from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from lift_jax.runs import train_and_test as module
from lift_jax.settings import parse


def train_and_test(config: ConfigDict, workdir: str | Path, mode: str = "train") -> dict[str, Any]:
    """Runs a config, as the command does."""
    return module.train_and_test(parse(config), workdir, mode)


def saved_leaves(workdir: Path, part: str = "tuned", step: int = 0) -> dict[str, np.ndarray]:
    """Returns the tuned leaves of a checkpoint, the newest by default, or another part of it.

    They are read without the library's restore.
    """
    import jax
    import orbax.checkpoint as ocp

    folder = workdir / "checkpoints"
    step = step or max(int(path.name) for path in folder.iterdir() if path.name.isdigit())
    path, reader = (folder / str(step) / "state").absolute(), ocp.PyTreeCheckpointer()
    stored = reader.metadata(path).item_metadata.tree
    on_host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), stored)
    state = reader.restore(path, restore_args=on_host)
    return {path: np.asarray(leaf) for path, leaf in state[part].items()}
