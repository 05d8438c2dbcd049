"""The classifier of a run folder, restored without the images that it was trained on."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import nnx

from lift_jax.data.names.meaning import prompt_names
from lift_jax.errors import UserError, shown
from lift_jax.models import tree
from lift_jax.models.backbone import Backbone, Classifier
from lift_jax.models.heads import Head
from lift_jax.models.precision import FLOAT32, Precision
from lift_jax.runs import finished_run, folder
from lift_jax.runs.kept import result_files
from lift_jax.runs.weights import export
from lift_jax.settings.parse import parse
from lift_jax.settings.schema import Settings, all_entries
from lift_jax.storage import atomic
from lift_jax.storage.names import expand_user
from lift_jax.training import text_classifier
from lift_jax.training.checkpoint import weights_checksum
from lift_jax.training.classifier import assemble, check_names, fingerprint, make_head
from lift_jax.training.placement import chosen_precision, kept_type, use_precision
from lift_jax.weights.load import load_backbone


@dataclass(frozen=True)
class RestoredRun:
    """The classifier of a run.

    Attributes:
        settings: the settings of the run.
        class_names: in the order of the logits.
        backbone: the pre-trained backbone, without what the run tuned.
        classifier: the tuned image tower with its head.
        weights: the checksum of what is tuned (`checkpoint.weights_checksum`).
    """

    settings: Settings
    class_names: tuple[str, ...]
    backbone: Backbone
    classifier: Classifier
    weights: int


def load(run: str | Path, exact: bool = False) -> RestoredRun:
    """Returns the classifier of a run folder's checkpoint, the one that `export.read_tuned` takes.

    Args:
        run: the run folder.
        exact: True keeps frozen weights in float32; False gives them the precision that training on
            this machine gives them.

    Raises UserError if there is no checkpoint or it cannot be read, and if the backbone has other
    weights than that of the run.
    """
    run = expand_user(run)
    tuned, saved = export.read_checkpoint(run)
    settings, class_names, backbone_fingerprint = read_settings(run, saved)
    try:
        names = check_names(settings)
    except UserError as e:
        raise UserError(f"{e} (If the config file of {run} defines it: --config=FILE.py.)") from e
    backbone = _backbone(settings, backbone_fingerprint)
    visual = nnx.clone(backbone.visual)
    head = empty_head(settings, backbone, class_names)
    model = assemble(visual, head, names, settings.tuner, len(class_names), rngs=nnx.Rngs(0)).model
    precision = FLOAT32 if exact else chosen_precision(settings.model)
    use_precision(precision, model.visual, getattr(model.head, "text", None))
    graph, leaves = tree.flatten(model)
    same_backbone = fingerprint(backbone, settings.head) == backbone_fingerprint
    if not same_backbone or not tuned.keys() <= leaves.keys():
        raise UserError(
            f"The backbone {settings.model.backbone} has other weights than that of {run}. Put "
            "back the weights that the run was trained with."
        )
    arrays = {path: restored_leaf(path, leaf, tuned, precision) for path, leaf in leaves.items()}
    model, checksum = tree.merge(graph, arrays), weights_checksum(tuned)
    return RestoredRun(settings, class_names, backbone, model, checksum)


def _backbone(settings: Settings, expected: str) -> Backbone:
    """Returns the backbone of a run, whose fingerprint should be the expected one.

    Runs from before `model.mean` normalised the images of every bare ViT by mean and std 0.5. This
    is taken if the fingerprint fits then.
    """
    name = settings.model.backbone
    backbone = load_backbone(name, **settings.model.loading, tell=logging.info)
    if "mean" in settings.written["model"] or fingerprint(backbone, settings.head) == expected:
        return backbone
    with suppress(UserError):  # from sources that take no other statistics
        half: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
        as_before = load_backbone(name, **settings.model.loading | half, tell=logging.info)
        if fingerprint(as_before, settings.head) == expected:
            return as_before
    return backbone


def empty_head(settings: Settings, backbone: Backbone, class_names: tuple[str, ...]) -> Head:
    """Returns the head of a run before its tuned weights are restored."""
    s = settings
    if s.head.kind != "text":
        return make_head(s.head, jnp.zeros((len(class_names), backbone.visual.width)))
    names = prompt_names(class_names, s.data.clean_names)
    return text_classifier.make(
        backbone, s.model.backbone, names, prompt=s.head.prompt, coop=s.coop,
        clip_adapter=s.clip_adapter, tuner=s.tuner, text_tuner=s.text_tuner,
        key=jax.random.key(0), devices=1,
    )[0]  # fmt: skip


def restored_leaf(
    path: str, leaf: nnx.Variable, tuned: Mapping[str, np.ndarray], precision: Precision
) -> jax.Array:
    """Returns the value of a leaf: the checkpoint's if tuned, else its own in its precision."""
    if path in tuned:
        return jnp.asarray(tuned[path])
    frozen = leaf[...]
    return frozen.astype(kept_type(path, frozen.dtype, precision))


def read_settings(run: Path, saved: dict[str, Any]) -> tuple[Settings, tuple[str, ...], str]:
    """Returns the settings of a run, its class names and its backbone's fingerprint.

    `saved` is the description in its checkpoint, which is taken if config.json is damaged. Raises
    UserError if that is damaged, too, or was written by another version.
    """
    file = run / result_files.CONFIG
    about, summary = finished_run.checked_config(file, folder.mend_config(run, saved, atomic.warn))
    backbone_fingerprint = summary.get("backbone_fingerprint")
    if not isinstance(backbone_fingerprint, str):
        raise UserError(
            f"{file}: data_summary.backbone_fingerprint is {shown(backbone_fingerprint)}; expected "
            "text. Put back the file that the run wrote."
        )
    for key, entry in all_entries().items():
        group, _, name = key.rpartition(".")
        if entry.about.before is None and name not in (about.get(group, {}) if group else about):
            raise UserError(
                f"{file} lacks the setting {name!r} ({key}): another version of lift_jax wrote it. "
                "Use that version, or add the setting (`lift-jax settings` lists them all)."
            )
    try:
        settings = parse(about)
    except UserError as e:
        raise UserError(f"{file}: {e}") from e
    return settings, tuple(summary["class_names"]), backbone_fingerprint
