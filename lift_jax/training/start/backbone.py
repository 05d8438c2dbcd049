"""The backbone of a run, and its classifiers before tuning: zero-shot, and untuned."""

import hashlib
import json
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from rich.console import Console

from lift_jax.data.names.meaning import GIVE, Meaning
from lift_jax.errors import UserError
from lift_jax.models import tree
from lift_jax.models.backbone import Backbone, Classifier
from lift_jax.models.heads import HEADS
from lift_jax.models.tree import Tree
from lift_jax.parallel import exchange
from lift_jax.parallel.agreement import agree
from lift_jax.settings.groups.data import DataSettings
from lift_jax.settings.groups.model import ModelSettings
from lift_jax.settings.schema import Settings
from lift_jax.training.classifier import make_zero_shot_head
from lift_jax.training.placement import Placement, use_precision
from lift_jax.training.texts import encode
from lift_jax.weights.load import load_backbone, load_tokenizer
from lift_jax.weights.names import seen

FrozenClassifier = tuple[nnx.GraphDef[Classifier], Tree]


def prepare_backbone(
    model: ModelSettings, data: DataSettings, placement: Placement, console: Console
) -> Backbone:
    """Loads the backbone and places its image tower, in its precision; prints notes of loading."""
    backbone = load_backbone(
        model.backbone, place=placement.loaded, **model.loading,
        tell=lambda note: console.print(f"Backbone: {note}"),
    )  # fmt: skip
    warn_of_a_leak(model.backbone, data, console)  # by names that the loaded files state
    use_precision(placement.precision, backbone.visual)
    return backbone


def warn_of_a_leak(backbone: str, data: DataSettings, console: Console) -> None:
    """Prints a warning if the backbone has seen the data in its pre-training, by their names."""
    files = (data.root, data.train_list, data.test_list, data.val_list)
    if line := seen.warning(backbone, (data.name, data.tfds, *files)):
        console.print(f"Warning: {line}")


def agree_on_weights(
    backbone: Backbone, model: ModelSettings, prompts: Sequence[Sequence[str]]
) -> None:
    """Raises UserError in all processes unless all have the same backbone and texts of the classes.

    `prompts` holds the texts of each class. `read_tuned` compares given tuned weights.
    """
    if exchange.count() == 1:
        return
    held = {
        "the weights of the image side (model.backbone)": backbone.fingerprint,
        "the weights of the text side (model.backbone)": backbone.text_fingerprint,
        "the start (model.tuned)": "given weights" if model.tuned else "new weights",
        "the texts of the classes": json.dumps(prompts, ensure_ascii=False),
    }
    if text := backbone.config.text:
        try:
            tokenizer = load_tokenizer(model.backbone, text.context, text.vocab)
            tokens = digest(tokenizer([t for own in prompts for t in own]).tobytes())
        except UserError:  # the head starts otherwise then (head.init)
            tokens = "no tokenizer"
        held["the tokens of these texts"] = tokens
    agree(held)


def digest(content: bytes) -> str:
    """Returns a short hexadecimal digest, by which processes compare what they hold."""
    return hashlib.sha256(content).hexdigest()[:16]


def check_named(found: Meaning, s: Settings) -> None:
    """Raises UserError if the head needs names of the classes and there are none.

    `found` is the meaning of the class names.
    """
    if not found.no_names or "text" not in (s.head.kind, s.head.init):
        return
    asked = "head.init is 'text'"
    if s.head.kind == "text":
        tuners = f"tuner.name={s.tuner.name!r}, text_tuner.name={s.text_tuner.name!r}"
        asked = f"head.kind is 'text' ({tuners})"
    raise UserError(
        f"{asked}, which needs the names of the classes, but {found.no_names}. {GIVE}, or start "
        "from images: a tuner of the image tower, with head.init=auto."
    )


def encode_class_texts(
    name: str,
    init: str,
    backbone: Backbone,
    prompts: Sequence[Sequence[str]],
    console: Console,
) -> jax.Array | None:
    """Returns the text features of the classes, f32[classes embed].

    Args:
        name: name of the backbone, beside whose weights the tokenizer lies.
        init: start of the head (head.init).
        backbone: the backbone, whose text tower encodes the texts.
        prompts: texts of each class.
        console: for messages and a progress bar.

    Returns None without a text tower or without texts. Without a tokenizer it prints a warning and
    returns None if `init` is auto, and otherwise raises UserError.
    """
    text = backbone.config.text
    if text is None or not prompts:
        return None
    try:
        tokenizer = load_tokenizer(name, text.context, text.vocab)
    except UserError as e:
        if init != "auto":
            raise
        console.print(
            f"Warning: {e} Without it there is no zero-shot classifier, and the head starts from "
            "the images of the classes instead of their names (head.init).",
        )
        return None
    return encode.class_texts(backbone, tokenizer, prompts, console)


def zero_shot_classifier(backbone: Backbone, texts: jax.Array | None) -> FrozenClassifier | None:
    """Returns CLIP's zero-shot classifier; None without class texts.

    Call it before tuners are attached to the image tower.
    """
    if texts is None:
        return None
    model = Classifier(backbone.visual, make_zero_shot_head(backbone, texts))
    return tree.split(model)


def untuned_classifier(
    backbone: Backbone, kind: str, zero_shot: FrozenClassifier | None
) -> FrozenClassifier:
    """Returns a classifier whose embedding is that of a head of `kind`, before tuning.

    For a head on texts this is `zero_shot`. For other heads it has a single class, whose weights
    are zero. Call it before tuners are attached to the image tower.
    """
    if kind == "text" and zero_shot is not None:
        return zero_shot
    head = HEADS[kind](jnp.zeros((1, backbone.visual.width)))
    return tree.split(Classifier(backbone.visual, head))
