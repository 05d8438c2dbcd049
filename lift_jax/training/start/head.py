"""The start of the head: from texts, from images, or at random (head.init)."""

from dataclasses import dataclass

import jax
from rich.console import Console

from lift_jax.data.types import Split
from lift_jax.errors import UserError
from lift_jax.evaluation.activations.cache import Cache
from lift_jax.models.backbone import Backbone
from lift_jax.settings.groups.head import HeadSettings
from lift_jax.settings.rules import check_shots
from lift_jax.training.start import head_init


@dataclass(frozen=True)
class HeadSource:
    """Everything from which a head can start.

    Attributes:
        backbone: the untuned backbone.
        name: name of the backbone, for messages.
        texts: text features of the classes, f32[classes embed], or None.
        train: training images; None if the start will be replaced, so that no image is read.
        interpolation: interpolation with which the images are resized.
        seed: seed of the choice of images.
        cache: cache of activations.
    """

    backbone: Backbone
    name: str
    texts: jax.Array | None
    train: Split | None
    interpolation: str
    seed: int
    cache: Cache


def start_head(
    head: HeadSettings, source: HeadSource, classes: int, key: jax.Array, console: Console
) -> jax.Array:
    """Returns the head's initial weight, f32[classes width], by head.init (LIFT section 4.2).

    A class without images starts from its texts, or at random if there are no texts. Raises
    UserError if head.init is text without a text tower, or if head.shots is set but the head starts
    from texts.
    """
    kind = head.init
    if kind == "auto":
        kind = "class_mean" if source.texts is None else "text"
        check_shots(head, kind)
    if kind == "text" and source.texts is None:
        raise UserError(
            f"head.init is 'text', but {source.name} has no text tower. Give auto, class_mean, "
            "linear_probe or none."
        )
    sizes = classes, source.backbone.visual.width
    if kind == "none" and head.kind == "linear" and head.random == "kaiming_normal":
        return head_init.kaiming_head(*sizes, key)
    if kind == "none" or source.texts is None:
        weight = head_init.unit_row_head(*sizes, key)
    else:
        proj = source.backbone.image_proj
        weight = head_init.head_from_texts(source.texts, None if proj is None else proj[...])
    if kind in ("text", "none") or source.train is None:
        return weight
    images = f"{head.shots} image{'s' * (head.shots > 1)} a class"
    most = f"at most {images}" if head.shots else "all images"
    console.print(f"Head: starts from {kind} of {most}.")
    features = head_init.image_features(
        source.backbone.visual, source.train, shots=head.shots, seed=source.seed,
        interpolation=source.interpolation, cache=source.cache,
    )  # fmt: skip
    if kind == "class_mean":
        return head_init.head_from_class_means(features, weight)
    return head_init.head_from_linear_probe(features, weight, console)
