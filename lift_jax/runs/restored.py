"""The classifier that a run folder holds, without the images that it was trained on."""

import json
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx

from lift_jax.errors import UserError
from lift_jax.models import tree
from lift_jax.models.backbone import Backbone, Classifier
from lift_jax.models.heads import Head
from lift_jax.models.tree import Tree
from lift_jax.runs import export, folder
from lift_jax.settings.parse import parse
from lift_jax.settings.schema import Settings, all_entries
from lift_jax.training import text_classifier
from lift_jax.training.classifier import assemble, check_names, fingerprint, make_head
from lift_jax.training.placement import stays_float32, uses_bfloat16
from lift_jax.weights.load import load_backbone


@dataclass(frozen=True)
class RestoredRun:
    """A run's classifier; `backbone` holds its image tower as it was pre-trained."""

    settings: Settings
    class_names: tuple[str, ...]
    backbone: Backbone
    classifier: Classifier


def load(run: str | Path, exact: bool = False) -> RestoredRun:
    """Returns the classifier of a run folder's newest checkpoint (with checkpoint.best the best).

    Frozen weights are in the precision that training on this machine gives them, or with `exact` in
    float32. Raises UserError if there is no checkpoint or it cannot be read, and for a backbone
    that is not the run's.
    """
    run = Path(run).expanduser()
    tuned = export.newest(run)
    settings, class_names, wanted = read_settings(run)
    try:
        names = check_names(settings)
    except UserError as e:
        raise UserError(f"{e} (If the config file of {run} defines it: --config=FILE.py.)") from e
    sizes = {"resolution": settings.model.resolution} if settings.model.resolution else {}
    backbone = load_backbone(settings.model.backbone, **sizes)
    visual = nnx.clone(backbone.visual)
    head = empty_head(settings, backbone, class_names)
    model = assemble(visual, head, names, settings.tuner, len(class_names), rngs=nnx.Rngs(0)).model
    graph, leaves = tree.flatten(model)
    if fingerprint(backbone, settings.head) != wanted or not tuned.keys() <= leaves.keys():
        raise UserError(
            f"The backbone {settings.model.backbone} has other weights than that of {run}: put "
            "those back that the run was made with."
        )
    half = uses_bfloat16(settings.model.precision) and not exact
    arrays = {path: restored(path, leaf, tuned, half) for path, leaf in leaves.items()}
    return RestoredRun(settings, class_names, backbone, tree.merge(graph, arrays))


def empty_head(settings: Settings, backbone: Backbone, class_names: tuple[str, ...]) -> Head:
    """Returns the head of a run, its own weights not yet restored."""
    s = settings
    if s.head.kind != "text":
        return make_head(s.head, jnp.zeros((len(class_names), backbone.visual.width)))
    return text_classifier.make(
        backbone, s.model.backbone, class_names, prompt=s.head.prompt, coop=s.coop,
        clip_adapter=s.clip_adapter, tuner=s.tuner, text_tuner=s.text_tuner,
        key=jax.random.key(0), devices=1,
    )[0]  # fmt: skip


def restored(path: str, leaf: nnx.Variable, tuned: Tree, half: bool) -> jax.Array:
    """Returns the value of a leaf: tuned from the checkpoint, frozen in its precision."""
    if path in tuned:
        return jnp.asarray(tuned[path])
    frozen = leaf[...]
    halved = half and frozen.dtype == jnp.float32 and not stays_float32(path)
    return frozen.astype(jnp.bfloat16) if halved else frozen


def read_settings(run: Path) -> tuple[Settings, tuple[str, ...], str]:
    """Returns the settings of a run, its class names and its backbone's fingerprint.

    Raises UserError if config.json is broken or was written by another version.
    """
    file = run / folder.CONFIG
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
        summary = about.pop("data_summary")
        names, wanted = summary["class_names"], summary["backbone_fingerprint"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise UserError(f"Cannot read {file}, which says what the run is of: {e}") from e
    for key in all_entries():
        group, _, name = key.rpartition(".")
        if name not in (about.get(group, {}) if group else about):
            raise UserError(
                f"{file} lacks the setting {name!r} ({key}): another version of lift_jax wrote it. "
                "Use that version, or add the setting (`lift-jax settings` lists them all)."
            )
    return parse(about), tuple(names), wanted
