"""Gives a run's tuned weights the names of the authors' code."""

import json
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from lift_jax.errors import UserError
from lift_jax.training import checkpoint
from lift_jax.weights import authors


def export(run: str | Path, to: str | Path, layout: str = "lift_plus") -> Path:
    """Writes the tuned weights of a run folder's newest checkpoint, and returns the file's path.

    Raises UserError if there is no checkpoint or it cannot be read, if the file exists or cannot be
    written, and for a layout that is unknown or has no name for what was tuned.
    """
    run, to = Path(run).expanduser(), Path(to).expanduser()
    if to.suffix != ".safetensors":
        raise UserError(f"--to is {to}; it must end in .safetensors, which is what is written.")
    if to.exists():
        raise UserError(f"{to} exists (--to). Remove it, or give another name.")
    leaves = newest(run)
    if any("/tuners/aft/" in path for path in leaves):
        authors.check_mask(str(run), layout, mask_of(run))
    authors.write(to, leaves, layout)
    return to


def mask_of(run: Path) -> str:
    """The run's tuner.mask. Raises UserError if its config.json does not say it."""
    try:
        return json.loads((run / "config.json").read_text(encoding="utf-8"))["tuner"]["mask"]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise UserError(
            f"{run / 'config.json'} does not say tuner.mask, by which aft has chosen its entries."
        ) from e


def newest(run: Path) -> dict[str, np.ndarray]:
    """The tuned leaves of a run folder's checkpoint, the best by validation or else the newest.

    Nothing in the folder is changed, so that the run may be under way. Raises UserError if there is
    no checkpoint or it cannot be read.
    """
    if not run.is_dir():
        raise UserError(f"{run}: expected a run folder (--run), found none.")
    step = checkpoint.chosen(run)
    if step is None:
        raise UserError(f"{run} holds no checkpoint. Train first: lift-jax train.")
    folder = (run / "checkpoints" / str(step) / "state").absolute()
    reader = ocp.PyTreeCheckpointer()
    try:
        saved = reader.metadata(folder).item_metadata
        if saved is None:
            raise ValueError("it is damaged")
        tuned = {"tuned": saved.tree["tuned"]}
        host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tuned)
        args = ocp.args.PyTreeRestore(item=tuned, restore_args=host, partial_restore=True)
        return reader.restore(folder, args=args)["tuned"]
    except (ValueError, KeyError, OSError) as e:
        raise UserError(
            f"Cannot read the checkpoint {folder.parent}: {e}\nDelete that folder to use "
            "the checkpoint before it."
        ) from e
