"""Folds what a run tuned into its backbone, which then costs what the untuned one does.

    python -m lift_jax.merge --run=W --to=FOLDER

writes the newest checkpoint of the run folder W, without data or accelerator, for lora, lora_mlp,
ssf, aft, bitfit, ln, bn and full (adapters and prompts are no change of weights). FOLDER is a
backbone like those of `lift_jax.convert`: load_backbone("FOLDER"), or :backbone=FOLDER. Beside it
lies the classifier, head.safetensors: its weights, and in the metadata its kind, its scale and the
names of the classes. Where texts were tuned instead, FOLDER's own zero-shot classifier is it.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from absl import logging
from flax import nnx
from ml_collections import ConfigDict

from lift_jax import build, command, export, text_head
from lift_jax import config as config_lib
from lift_jax.errors import UserError, fail
from lift_jax.models import tree, tuners
from lift_jax.models.backbone import Backbone, Classifier
from lift_jax.models.heads import HEADS, Head
from lift_jax.models.prompting import TextHead
from lift_jax.weights import load_backbone, save_converted

HEAD = "head.safetensors"
BESIDE = ("coop", "clip_adapter")  # of what texts give: no weights of the backbone


def merged(run: str | Path) -> tuple[Backbone, Head, dict[str, Any]]:
    """The backbone of a run with what was tuned folded in, its head, and what config.json says.

    Raises UserError if there is no checkpoint or it cannot be read, for tuners that cannot be
    folded, and for a backbone that is not the run's.
    """
    run = Path(run).expanduser()
    tuned = export.newest(run)
    config, about = settings(run)
    try:
        names = build.check(config)
    except UserError as e:
        raise UserError(f"{e} (If the config file of {run} defines it: --config=FILE.py.)") from e
    if kept := [name for name in names if name in BESIDE]:
        raise UserError(f"{run} tuned {' and '.join(kept)}, which cannot be merged: it is no part "
                        "of the backbone.")  # fmt: skip
    classes = about["data_summary"]["class_names"]
    sizes = {"resolution": config.model.resolution} if config.model.resolution else {}
    backbone = load_backbone(config.model.backbone, **sizes)
    kind = config_lib.head_kind(config)
    if kind == "text":
        key = jax.random.key(0)
        head: Head = text_head.make(config, backbone, classes, key=key, devices=1)[0]
    else:
        scale = {"scale": config.head.scale} if kind == "cosine" else {}
        head = HEADS[kind](jnp.zeros((len(classes), backbone.visual.width)), **scale)
    tuners.attach(
        backbone.visual, names, len(classes), rngs=nnx.Rngs(0),
        **asdict(tuners.Options.of(config.tuner)),
    )  # fmt: skip
    graph, leaves = tree.flatten(Classifier(backbone.visual, head))
    found = backbone.fingerprint + (kind == "text") * backbone.text_fingerprint
    if found != about["data_summary"]["backbone_fingerprint"] or not tuned.keys() <= leaves.keys():
        raise UserError(
            f"The backbone {config.model.backbone} has other weights than that of {run}: put "
            "those back that the run was made with."
        )
    arrays = {path: jnp.asarray(tuned.get(path, leaf[...])) for path, leaf in leaves.items()}
    model = tuners.merge(tree.merge(graph, arrays))
    backbone.visual = model.visual
    if isinstance(model.head, TextHead):
        backbone.text = model.head.text or backbone.text
        for own in ("image_proj", "text_proj"):
            if getattr(backbone, own) is not None:
                setattr(backbone, own, nnx.Param(getattr(model.head, own)[...]))
    return backbone, model.head, about


def settings(run: Path) -> tuple[ConfigDict, dict[str, Any]]:
    """The config of a run folder, and all that its config.json says. Raises UserError if broken."""
    try:
        about = json.loads((run / "config.json").read_text(encoding="utf-8"))
        summary = about["data_summary"]
        _ = summary["class_names"], summary["backbone_fingerprint"]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise UserError(f"Cannot read {run / 'config.json'}, which says what W is of: {e}") from e
    return ConfigDict({key: value for key, value in about.items() if key != "data_summary"}), about


def write(run: str | Path, to: str | Path) -> None:
    """Writes `merged` to a new folder. Raises UserError as it does, and if there is such a folder
    or it cannot be written."""
    to = Path(to).expanduser()
    if to.exists():
        raise UserError(f"{to} exists (--to). Remove it, or give another name.")
    backbone, head, about = merged(run)
    save_converted(backbone, to, about["model"]["backbone"])
    if isinstance(head, TextHead):
        return
    _, leaves = tree.flatten(Classifier(backbone.visual, head))
    arrays = {
        path.removeprefix("head/"): np.asarray(leaf[...])
        for path, leaf in leaves.items()
        if path.startswith("head/")
    }
    told = {
        "class_names": json.dumps(about["data_summary"]["class_names"]),
        "kind": config_lib.head_kind(ConfigDict(about)),
        "scale": str(about["head"]["scale"]),
    }
    try:
        (to / HEAD).write_bytes(safetensors.numpy.save(arrays, told))
    except OSError as e:
        raise UserError(f"Cannot write {to / HEAD}: {e}. Make room, and remove {to}.") from e


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        prog="python -m lift_jax.merge", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--run", required=True, metavar="W", help="a run folder")
    parser.add_argument("--to", required=True, metavar="FOLDER", help="the folder to write")
    parser.add_argument("--config", metavar="FILE.py", help="of the run, if it defines tuners")
    flags = parser.parse_args(arguments)
    logging.set_verbosity(logging.ERROR)  # orbax warns of what it does not need
    jax.config.update("jax_platforms", "cpu")
    try:
        command.define(flags.config)
        write(flags.run, flags.to)
        print(f"Written: {flags.to}. Use it with :backbone={flags.to}")
    except UserError as error:
        sys.exit(fail(error))


if __name__ == "__main__":
    main()
