"""The classifier that a run folder holds, without the images that it was trained on."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from lift_jax import build, export, folder, text_head
from lift_jax import config as config_lib
from lift_jax.errors import UserError
from lift_jax.models import tree, tuners
from lift_jax.models.backbone import Backbone, Classifier
from lift_jax.models.heads import Head
from lift_jax.weights import load_backbone


@dataclass(frozen=True)
class Trained:
    """What `load` gives: `backbone` holds the classifier's image tower as it was pre-trained."""

    config: ConfigDict
    class_names: tuple[str, ...]
    backbone: Backbone
    classifier: Classifier


def load(run: str | Path, exact: bool = False) -> Trained:
    """The newest checkpoint of a run folder (with checkpoint.best the best) on its backbone.

    Frozen weights are as a training on this machine has them, or with `exact` in float32. Raises
    UserError if there is no checkpoint or it cannot be read, and for a backbone that is not the
    run's.
    """
    run = Path(run).expanduser()
    tuned = export.newest(run)
    config, class_names, fingerprint = _settings(run / folder.CONFIG)
    try:
        names = build.check(config)
    except UserError as e:
        raise UserError(f"{e} (If the config file of {run} defines it: --config=FILE.py.)") from e
    except AttributeError as e:  # how a config says that it does not have a field
        name = str(e).strip("\"'")
        raise UserError(
            f"{run / folder.CONFIG} lacks the setting {name!r}: another version of lift_jax wrote "
            "it. Use that version, or add the setting (configs/base.py lists them all)."
        ) from e
    sizes = {"resolution": config.model.resolution} if config.model.resolution else {}
    backbone = load_backbone(config.model.backbone, **sizes)
    kind = config_lib.head_kind(config)
    if kind == "text":
        key = jax.random.key(0)
        head: Head = text_head.make(config, backbone, class_names, key=key, devices=1)[0]
    else:
        head = build.head_of(config, jnp.zeros((len(class_names), backbone.visual.width)))
    visual = nnx.clone(backbone.visual)
    tuners.attach(
        visual, names, len(class_names), rngs=nnx.Rngs(0),
        **asdict(tuners.Options.of(config.tuner)),
    )  # fmt: skip
    graph, leaves = tree.flatten(Classifier(visual, head))
    found = backbone.fingerprint + (kind == "text") * backbone.text_fingerprint
    if found != fingerprint or not tuned.keys() <= leaves.keys():
        raise UserError(
            f"The backbone {config.model.backbone} has other weights than that of {run}: put "
            "those back that the run was made with."
        )
    half = build.uses_bfloat16(config) and not exact

    def value(path: str, leaf: nnx.Variable) -> jax.Array:
        if path in tuned:
            return jnp.asarray(tuned[path])
        frozen = leaf[...]
        halved = half and frozen.dtype == jnp.float32 and not build.stays_float32(path)
        return frozen.astype(jnp.bfloat16) if halved else frozen

    arrays = {path: value(path, leaf) for path, leaf in leaves.items()}
    return Trained(config, class_names, backbone, tree.merge(graph, arrays))


def _settings(file: Path) -> tuple[ConfigDict, tuple[str, ...], str]:
    """The config of a run, its classes and its backbone's fingerprint. Raises UserError if the file
    is broken."""
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
        summary = about.pop("data_summary")
        names, fingerprint = summary["class_names"], summary["backbone_fingerprint"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise UserError(f"Cannot read {file}, which says what the run is of: {e}") from e
    return ConfigDict(about), tuple(names), fingerprint
