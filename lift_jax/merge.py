"""Folds what a run tuned into its backbone, which then costs what the untuned one does.

    python -m lift_jax.merge --run=W --to=FOLDER

writes the newest checkpoint of the run folder W, without data or accelerator, for lora, lora_mlp,
ssf, aft, bitfit, ln, bn and full (adapters and prompts are no change of weights). FOLDER is a
backbone like those of `lift_jax.convert`: load_backbone("FOLDER"), or :backbone=FOLDER. Beside it
lies the classifier, head.safetensors: its weights, and in the metadata its kind, its scale and the
names of the classes. Where texts were tuned instead, FOLDER's own zero-shot classifier is it.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import safetensors.numpy
from absl import logging
from flax import nnx

from lift_jax import command, trained
from lift_jax import config as config_lib
from lift_jax.errors import UserError
from lift_jax.models import tree, tuners
from lift_jax.models.backbone import Backbone
from lift_jax.models.prompting import TextHead
from lift_jax.trained import Trained
from lift_jax.weights import save_converted

HEAD = "head.safetensors"
BESIDE = ("coop", "clip_adapter")  # of what texts give: no weights of the backbone


def merged(run: str | Path) -> tuple[Backbone, Trained]:
    """The backbone of a run with what was tuned folded in, and the run, its head as it was trained.

    Raises UserError as `trained.load` does, and for tuners that cannot be folded.
    """
    found = trained.load(run, exact=True)
    names = found.config.tuner.name.split("+")
    if kept := [name.strip() for name in names if name.strip() in BESIDE]:
        raise UserError(f"{run} tuned {' and '.join(kept)}, which cannot be merged: it is no part "
                        "of the backbone.")  # fmt: skip
    model, backbone = tuners.merge(found.classifier), found.backbone
    backbone.visual = model.visual
    if isinstance(model.head, TextHead):
        backbone.text = model.head.text or backbone.text
        for own in ("image_proj", "text_proj"):
            if getattr(backbone, own) is not None:
                setattr(backbone, own, nnx.Param(getattr(model.head, own)[...]))
    return backbone, replace(found, classifier=model)


def write(run: str | Path, to: str | Path) -> None:
    """Writes `merged` to a new folder. Raises UserError as it does, and if there is such a folder
    or it cannot be written."""
    to = Path(to).expanduser()
    if to.exists():
        raise UserError(f"{to} exists (--to). Remove it, or give another name.")
    backbone, found = merged(run)
    save_converted(backbone, to, found.config.model.backbone)
    if isinstance(found.classifier.head, TextHead):
        return
    _, leaves = tree.flatten(found.classifier)
    arrays = {
        path.removeprefix("head/"): np.asarray(leaf[...])
        for path, leaf in leaves.items()
        if path.startswith("head/")
    }
    told = {
        "class_names": json.dumps(found.class_names),
        "kind": config_lib.head_kind(found.config),
        "scale": str(found.config.head.scale),
    }
    try:
        (to / HEAD).write_bytes(safetensors.numpy.save(arrays, told))
    except OSError as e:
        raise UserError(f"Cannot write {to / HEAD}: {e}. Make room, and remove {to}.") from e


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = command.parser("merge", __doc__)
    parser.add_argument("--run", required=True, metavar="W", help="a run folder")
    parser.add_argument("--to", required=True, metavar="FOLDER", help="the folder to write")
    parser.add_argument("--config", metavar="FILE.py", help="of the run, if it defines tuners")
    flags = parser.parse_args(arguments)
    logging.set_verbosity(logging.ERROR)  # orbax warns of what it does not need
    jax.config.update("jax_platforms", "cpu")
    with command.told():
        command.define(flags.config)
        write(flags.run, flags.to)
        print(f"Written: {flags.to}. Use it with :backbone={flags.to}")


if __name__ == "__main__":
    main()
