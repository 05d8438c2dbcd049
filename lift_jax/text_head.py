"""From a config to the head of tuning without a classifier: the texts of the classes."""

from collections.abc import Callable, Sequence
from dataclasses import asdict

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from lift_jax import config as config_lib
from lift_jax import init, prompts
from lift_jax.errors import UserError
from lift_jax.models import prompting, tuners
from lift_jax.models.backbone import Backbone
from lift_jax.models.prompting import TextHead
from lift_jax.models.text import TextTransformer
from lift_jax.weights import Tokenizer, load_tokenizer


def check(config: ConfigDict) -> tuple[str, ...]:
    """The tuners of the text tower. Raises UserError for unknown ones, and wrong options."""
    names = tuners.parse_names(config.text_tuner.name, key="text_tuner.name")
    if "bn" in names:
        raise UserError("text_tuner.name has 'bn', which belongs to ResNets: leave it out.")
    _options(config)
    return names


def make(
    config: ConfigDict,
    backbone: Backbone,
    class_names: Sequence[str],
    *,
    key: jax.Array,
    devices: int,
) -> tuple[TextHead, Callable[[tuners.Path, nnx.Variable], bool]]:
    """The head, with the tuners in its text tower, and which of its leaves are trained.

    Where nothing changes what the tower gives, the texts are encoded here, once. Raises UserError
    without a text tower or its tokenizer, and for `coop` with SigLIP.
    """
    text, tuned = backbone.text, config_lib.text_tuners(config)
    if text is None:
        raise UserError(
            f"head.kind is 'text', but {config.model.backbone} has no text tower. Give another "
            "head.kind, as cosine, and no tuner of texts."
        )
    tokenizer = load_tokenizer(config.model.backbone, text.config.context, text.config.vocab)
    rngs = nnx.Rngs(key)
    template, inside, context = config.head.prompt, (), None
    if "coop" in tuned:
        photo = config.coop.init == "photo"
        coop = config.coop.tokens, config.coop.place
        template, inside = prompting.PHOTO if photo else prompting.prompt(*coop)
        example = example_of(tokenizer, template, inside, text)
        context = (
            prompting.context_of(text, example, inside)
            if photo
            else prompting.random_context(len(inside), text.config.width, rngs.params())
        )
    texts = [own for (own,) in prompts.texts(class_names, template)]
    head = TextHead(
        backbone, init.tokenise(tokenizer, texts, text), context=context, inside=inside,
        proj="proj" in tuned, adapter=config.clip_adapter.dim * ("clip_adapter" in tuned),
        init=config.tuner.init, devices=devices, rngs=rngs,
    )  # fmt: skip
    names, options = check(config), _options(config)
    tuners.attach(text, names, len(class_names), rngs=rngs, **asdict(options))
    if not names and context is None:
        head.encode_once()
    is_trainable = tuners.trainable(
        names, len(text.blocks), options.partial, options.layers, prefix="text"
    )
    return head, lambda path, leaf: is_trainable(path[1:], leaf)


def example_of(
    tokenizer: Tokenizer, template: str, inside: Sequence[int], text: TextTransformer
) -> jax.Array:
    """The tokens of the template with a short name. Raises UserError if a word is not a token."""
    if text.config.pool != "eot":
        raise UserError("coop needs a text tower like CLIP's, whose texts end where they end.")
    needed = len(inside) + 4  # start, end, the full stop and a name
    if needed > text.config.context:
        raise UserError(
            f"coop.tokens is {len(inside)}, but the text tower has room for {text.config.context} "
            f"tokens: give at most {len(inside) + text.config.context - needed}, less where names "
            "are long."
        )
    row = jnp.asarray(init.tokenise(tokenizer, [template.replace("{}", "a")], text)[0])
    found = int(text.ends(row[None])[0]) - 1
    if found != len(inside) + (2 if -1 not in inside else 1):
        raise UserError(
            f"coop needs a tokenizer that has one token for each word and for the full stop of "
            f"{template!r}; this one gives {found} tokens."
        )
    return row


def _options(config: ConfigDict) -> tuners.Options:
    """Those of the tuners in the text tower."""
    own = {key: value for key, value in config.text_tuner.items() if key != "name"}
    return tuners.Options(init=config.tuner.init, group="text_tuner", **own)
