"""The head that classifies by tuned texts of the classes (head.kind=text, LIFT+ section 5)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from lift_jax.data import class_prompts
from lift_jax.errors import UserError
from lift_jax.models.backbone import Backbone
from lift_jax.models.text import TextTransformer
from lift_jax.settings.groups.tuner import (
    ClipAdapterSettings,
    CoopSettings,
    TextTunerSettings,
    TunerSettings,
)
from lift_jax.training.texts import encode
from lift_jax.tuners import prompt_learning
from lift_jax.tuners.attach import attach, parse_names
from lift_jax.tuners.prompt_learning import TunedTextHead
from lift_jax.tuners.rules import Path, trainable
from lift_jax.weights.load import load_tokenizer
from lift_jax.weights.tokenizer import Tokenizer


def tower_tuners(text_tuner: TextTunerSettings) -> tuple[str, ...]:
    """Returns the names of the text tower's tuners. Raises UserError for unknown ones."""
    names = parse_names(text_tuner.name, key="text_tuner.name")
    if "bn" in names:
        raise UserError("text_tuner.name has 'bn', which belongs to ResNets: leave it out.")
    return names


def make(
    backbone: Backbone,
    name: str,
    class_names: Sequence[str],
    *,
    prompt: str,
    coop: CoopSettings,
    clip_adapter: ClipAdapterSettings,
    tuner: TunerSettings,
    text_tuner: TextTunerSettings,
    key: jax.Array,
    devices: int,
) -> tuple[TunedTextHead, Callable[[Path, nnx.Variable], bool]]:
    """Returns the head on tuned texts, and the predicate that is true for its trained leaves.

    The tuners are attached to the text tower in place. If no tuner changes the output of the tower,
    the texts are encoded here, once.

    Args:
        backbone: gives the text tower, and the projections of images and texts.
        name: name of the backbone, beside whose weights the tokenizer lies.
        class_names: names of the classes, as prompts say them.
        prompt: template with {} for the class name (head.prompt).
        coop: settings of learned words.
        clip_adapter: settings of the bottlenecks on projected features.
        tuner: settings of the tuner, whose name selects coop, clip_adapter and proj.
        text_tuner: settings of the text tower's tuners.
        key: draws the initial values.
        devices: number of devices.

    Raises UserError without a text tower or its tokenizer, and for coop with SigLIP.
    """
    text = backbone.text
    if text is None:
        raise UserError(
            f"head.kind is 'text', but {name} has no text tower. Give another head.kind, such as "
            "cosine, and no tuner of texts."
        )
    tokenizer = load_tokenizer(name, text.config.context, text.config.vocab)
    rngs = nnx.Rngs(key)
    words = LearnedWords(prompt)
    if "coop" in tuner.names:
        words = learned_words(coop, tokenizer, text, rngs)
    texts = [own for (own,) in class_prompts.texts(class_names, words.template)]
    head = TunedTextHead(
        backbone, encode.tokenise(tokenizer, texts, text), context=words.context,
        word_positions=words.word_positions, proj="proj" in tuner.names,
        adapter=clip_adapter.dim * ("clip_adapter" in tuner.names), init=tuner.init,
        devices=devices, rngs=rngs,
    )  # fmt: skip
    names = tower_tuners(text_tuner)
    attach(text, names, len(class_names), text_tuner, rngs=rngs)
    if not names and words.context is None:
        head.encode_once()
    is_trainable = trainable(
        names, len(text.blocks), text_tuner.partial, text_tuner.layers, prefix="text"
    )
    return head, lambda path, leaf: is_trainable(path[1:], leaf)


@dataclass(frozen=True)
class LearnedWords:
    """The template of the class texts, with the learned words in it (CoOp).

    Attributes:
        template: text with {} for the class name.
        word_positions: positions of the learned words in the template; see `prompt_learning`.
        context: initial embeddings of the learned words, f32[words width]; None without any.
    """

    template: str
    word_positions: Sequence[int] = ()
    context: jax.Array | None = None


def learned_words(
    coop: CoopSettings, tokenizer: Tokenizer, text: TextTransformer, rngs: nnx.Rngs
) -> LearnedWords:
    """Returns CoOp's template and the initial embeddings of its learned words.

    Raises UserError if a word of the template is not one token.
    """
    if coop.init == "photo":
        template, positions = prompt_learning.PHOTO
        example = example_of(tokenizer, template, positions, text)
        return LearnedWords(
            template, positions, prompt_learning.context_of(text, example, positions)
        )
    template, positions = prompt_learning.learned_template(coop.tokens, coop.place)
    example_of(tokenizer, template, positions, text)  # raises if a word is not one token
    width = text.config.width
    return LearnedWords(
        template, positions, prompt_learning.random_context(len(positions), width, rngs.params())
    )


def example_of(
    tokenizer: Tokenizer, template: str, positions: Sequence[int], text: TextTransformer
) -> jax.Array:
    """Returns the tokens of the template with a short class name, i32[tokens].

    Raises UserError if the text tower has no end token or too little room, or if a word of the
    template is not one token.
    """
    if text.config.pool != "eot":
        raise UserError(
            "coop needs a text tower like CLIP's, where a text ends with its own end token; this "
            "one pads all texts to one length. Give another tuner."
        )
    needed = len(positions) + 4  # start, end, the full stop and a name
    if needed > text.config.context:
        raise UserError(
            f"coop.tokens is {len(positions)}, but the text tower has room for "
            f"{text.config.context} tokens: give at most "
            f"{len(positions) + text.config.context - needed}, less where names are long."
        )
    row = jnp.asarray(encode.tokenise(tokenizer, [template.replace("{}", "a")], text)[0])
    count = int(text.ends(row[None])[0]) - 1
    if count != len(positions) + (2 if -1 not in positions else 1):
        raise UserError(
            f"coop needs a tokenizer that has one token for each word and for the full stop of "
            f"{template!r}; this one gives {count} tokens. Give "
            "another tuner or backbone."
        )
    return row
