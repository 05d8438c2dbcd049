"""The classifier that settings describe: its names, head and tuners.

Training and restored runs build it here in the same way.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
from flax import nnx

from lift_jax.errors import unknown
from lift_jax.models.backbone import Backbone, Classifier, Tower
from lift_jax.models.heads import HEADS, Head, ZeroShotHead
from lift_jax.models.resnet import ResNet
from lift_jax.settings.groups.head import HeadSettings
from lift_jax.settings.groups.tuner import TunerSettings
from lift_jax.settings.rules import TEXT_FEATURE_TUNERS
from lift_jax.settings.schema import Settings
from lift_jax.training import losses, text_classifier
from lift_jax.tuners.attach import attach, parse_names
from lift_jax.tuners.rules import Path, trainable

IsTrainable = Callable[[Path, nnx.Variable], bool]


def check_names(settings: Settings) -> tuple[str, ...]:
    """Returns the names of the image tower's tuners.

    Raises UserError for a head, loss or tuner that does not exist, before anything is loaded.
    """
    if settings.head.kind not in (*HEADS, "text"):
        raise unknown("head (head.kind)", settings.head.kind, [*HEADS, "text", "auto"])
    losses.check(settings.loss.name, settings.loss.options)
    text_classifier.tower_tuners(settings.text_tuner)
    names = parse_names(settings.tuner.name, TEXT_FEATURE_TUNERS)
    return tuple(name for name in names if name not in TEXT_FEATURE_TUNERS)


@dataclass(frozen=True)
class Assembled:
    """A classifier, and the predicate that is true for its trained leaves."""

    model: Classifier
    is_trainable: IsTrainable


def assemble(
    visual: Tower,
    head: Head,
    names: Sequence[str],
    tuner: TunerSettings,
    classes: int,
    *,
    rngs: nnx.Rngs,
    in_texts: IsTrainable | None = None,
) -> Assembled:
    """Attaches tuners to an image tower, in place, and joins it with a head.

    Args:
        visual: the image tower.
        head: of the classifier.
        names: of the tuners in the image tower.
        tuner: their options.
        classes: number of classes, by which automatic sizes are chosen.
        rngs: draws the initial values of the tuners.
        in_texts: true for the trained leaves of a head on tuned texts.

    Raises UserError for blocks that do not exist.
    """
    attach(visual, names, classes, tuner, rngs=rngs)
    in_images = trainable(
        names, len(visual.blocks), tuner.partial, tuner.layers,
        resnet=isinstance(visual, ResNet), stem=tuner.stem,
    )  # fmt: skip

    def is_trainable(path: Path, leaf: nnx.Variable) -> bool:
        return in_images(path, leaf) or (in_texts is not None and in_texts(path, leaf))

    return Assembled(Classifier(visual, head), is_trainable)


def make_head(settings: HeadSettings, weight: jax.Array) -> Head:
    """Returns the head of kind `settings.kind` with the weight f32[classes width]."""
    scale = {"scale": settings.scale} if settings.kind == "cosine" else {}
    return HEADS[settings.kind](weight, **scale)


def make_zero_shot_head(backbone: Backbone, texts: jax.Array) -> ZeroShotHead:
    """Returns CLIP's zero-shot head for text features of the classes, f32[classes embed]."""
    proj, scale, bias = backbone.image_proj, backbone.logit_scale, backbone.logit_bias
    assert scale is not None
    return ZeroShotHead(
        None if proj is None else proj[...], texts, scale[...], None if bias is None else bias[...]
    )


def fingerprint(backbone: Backbone, head: HeadSettings) -> str:
    """Returns the fingerprint of those weights of the backbone that the classifier uses."""
    return backbone.fingerprint + (head.kind == "text") * backbone.text_fingerprint
