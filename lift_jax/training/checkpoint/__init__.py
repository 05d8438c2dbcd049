"""Checkpoints: when to save them, and how to write and read them with orbax.

A checkpoint holds the state (tuned leaves, optimizer, step) and a JSON description of its run: the
config, the classes and a fingerprint of the frozen weights. It takes megabytes, for it does not
hold the backbone.
"""

from lift_jax.training.checkpoint.cadence import PACE_STEPS, Cadence
from lift_jax.training.checkpoint.contents import FOLDER, weights_checksum
from lift_jax.training.checkpoint.manager import (
    Manager,
    open_manager,
    read_about,
    restore,
    save,
    told_newest,
    wait,
)
from lift_jax.training.checkpoint.scores import best_first
from lift_jax.training.checkpoint.tuned import read_tuned

__all__ = [
    "FOLDER", "PACE_STEPS", "Cadence", "Manager", "best_first", "open_manager",
    "read_about", "read_tuned", "restore", "save", "told_newest", "wait", "weights_checksum",
]  # fmt: skip
