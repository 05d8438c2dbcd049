"""Merging of a run: its tuners folded into the backbone, which then costs no more than untuned."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from flax import nnx

from lift_jax.errors import UserError
from lift_jax.models import tree
from lift_jax.models.backbone import Backbone
from lift_jax.runs import restored
from lift_jax.runs.restored import RestoredRun
from lift_jax.storage import atomic, disk
from lift_jax.storage.formats.tensors import write_tensors
from lift_jax.storage.names import expand_user
from lift_jax.tuners import attach
from lift_jax.tuners.prompt_learning import TunedTextHead
from lift_jax.weights.save import save_converted

HEAD = "head.safetensors"
OUTSIDE_BACKBONE = ("coop", "clip_adapter")  # they change the text classifier alone


def merge_run(run: str | Path, trained: RestoredRun) -> tuple[Backbone, RestoredRun]:
    """Returns the backbone of a run with its tuners folded in, and the run with the merged model.

    Args:
        run: the run folder, for messages.
        trained: the run as `restored.load` gives it with `exact`.

    Raises UserError if a tuner cannot be folded in.
    """
    if outside := [name for name in trained.settings.tuner.names if name in OUTSIDE_BACKBONE]:
        raise UserError(
            f"{run} tuned {' and '.join(outside)}, which cannot be merged: it is no part of the "
            "backbone."
        )
    model, backbone = attach.merge(trained.classifier), nnx.clone(trained.backbone)
    backbone.visual = model.visual
    if isinstance(model.head, TunedTextHead):
        backbone.text = model.head.text or backbone.text
        for projection in ("image_proj", "text_proj"):
            if getattr(backbone, projection) is not None:
                setattr(backbone, projection, nnx.Param(getattr(model.head, projection)[...]))
    return backbone, replace(trained, classifier=model)


def write(run: str | Path, to: str | Path) -> None:
    """Writes the merged backbone of a run to a new folder, and its head beside it.

    A classifier made of tuned texts has no head file: it is the backbone's zero-shot classifier.
    Raises UserError as `restored.load` and `merge_run` do, if the folder exists, and if it cannot
    be written.
    """
    to = expand_user(to)
    if to.exists():
        raise UserError(f"{to} exists (--to). Remove it, or give another name.")
    disk.make_place(to, "--to")
    backbone, trained = merge_run(run, restored.load(run, exact=True))
    with atomic.new_folder(to) as folder:
        if not isinstance(trained.classifier.head, TunedTextHead):
            write_head(trained, folder)
        save_converted(backbone, folder, trained.settings.model.backbone)


def write_head(trained: RestoredRun, folder: Path) -> None:
    """Writes the head's weights, with kind, scale and class names as metadata, to a folder.

    Raises DiskError if the file cannot be written.
    """
    _, leaves = tree.flatten(trained.classifier)
    arrays = {
        path.removeprefix("head/"): np.asarray(leaf[...])
        for path, leaf in leaves.items()
        if path.startswith("head/")
    }
    metadata = {
        "class_names": json.dumps(trained.class_names),
        "kind": trained.settings.head.kind,
        "scale": str(trained.settings.head.scale),
    }
    write_tensors(folder / HEAD, arrays, metadata)
