"""Gives a run's tuned weights the names of the authors' code.

    python -m lift_jax.export --run=W --to=FILE.safetensors [--layout=lift]

writes the newest checkpoint of the run folder W (with checkpoint.best the best), without data,
backbone or accelerator. The config key `model.tuned` reads FILE. For the authors' code, where
torch is installed:

    checkpoint = {"tuner": {}, "head": {}}
    for name, tensor in safetensors.torch.load_file("FILE.safetensors").items():
        key, _, name = name.partition(".")
        checkpoint[key][name] = tensor
    torch.save(checkpoint, "checkpoint.pth.tar")
"""

import json
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from rich.console import Console

from lift_jax import checkpoint, command
from lift_jax.errors import UserError
from lift_jax.remote import worked_on
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
        raise UserError(f"{run} holds no checkpoint to export. Train first: lift_jax.main.")
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
            f"Cannot read the checkpoint {folder.parent}: {e}\nDelete that folder to export "
            "the checkpoint before it."
        ) from e


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = command.parser("export", __doc__)
    parser.add_argument("--run", required=True, metavar="W", help="a run folder")
    parser.add_argument("--to", required=True, metavar="FILE", help="the file to write")
    parser.add_argument("--layout", default="lift_plus", help="lift or lift_plus (default)")
    flags = parser.parse_args(arguments)
    logging.set_verbosity(logging.ERROR)  # orbax warns of what it does not need
    jax.config.update("jax_platforms", "cpu")
    with command.told():
        with worked_on(flags.run, Console(stderr=True)) as run:
            path = export(run, flags.to, flags.layout)
        found = authors.describe(path)
        print(f"{path}: {found.tuned}; {found.classes} classes; names of {found.layout}")


if __name__ == "__main__":
    main()
