"""Folds what a run tuned into its backbone, which then costs what the untuned one does."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import safetensors.numpy
from flax import nnx

from lift_jax.errors import UserError
from lift_jax.models import tree
from lift_jax.models.backbone import Backbone
from lift_jax.runs import restored
from lift_jax.runs.restored import RestoredRun
from lift_jax.tuners import attach
from lift_jax.tuners.prompt_learning import TunedTextHead
from lift_jax.weights.load import save_converted

HEAD = "head.safetensors"
BESIDE = ("coop", "clip_adapter")  # of what texts give: no weights of the backbone


def merged(run: str | Path) -> tuple[Backbone, RestoredRun]:
    """The backbone of a run with what was tuned folded in, and the run, its head as it was trained.

    Raises UserError as `trained.load` does, and for tuners that cannot be folded.
    """
    found = restored.load(run, exact=True)
    if kept := [name for name in found.settings.tuner.names if name in BESIDE]:
        raise UserError(f"{run} tuned {' and '.join(kept)}, which cannot be merged: it is no part "
                        "of the backbone.")  # fmt: skip
    model, backbone = attach.merge(found.classifier), found.backbone
    backbone.visual = model.visual
    if isinstance(model.head, TunedTextHead):
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
    save_converted(backbone, to, found.settings.model.backbone)
    if isinstance(found.classifier.head, TunedTextHead):
        return
    _, leaves = tree.flatten(found.classifier)
    arrays = {
        path.removeprefix("head/"): np.asarray(leaf[...])
        for path, leaf in leaves.items()
        if path.startswith("head/")
    }
    told = {
        "class_names": json.dumps(found.class_names),
        "kind": found.settings.head.kind,
        "scale": str(found.settings.head.scale),
    }
    try:
        (to / HEAD).write_bytes(safetensors.numpy.save(arrays, told))
    except OSError as e:
        raise UserError(f"Cannot write {to / HEAD}: {e}. Make room, and remove {to}.") from e
