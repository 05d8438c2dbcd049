"""Tuning without a classifier: CLIP's own, whose class texts are computed from what is tuned."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from lift_jax.models import tree
from lift_jax.models.backbone import Backbone, Classifier
from lift_jax.models.heads import normalise
from lift_jax.models.layers import Normal
from lift_jax.models.text import TextTransformer
from lift_jax.models.tunable import Fixed, Site, Tuned
from lift_jax.settings.schema import TunerSettings
from lift_jax.tuners.adapter import Adapter

CHUNK = 8192  # tokens that a device encodes at once: 8,142 classes train in a few GB


def learned_template(tokens: int, place: str) -> tuple[str, tuple[int, ...]]:
    """A prompt with `tokens` words to be learned, and where these are in its text.

    `place` is that of the class name: "front", "middle" or "end". Places in the text are counted
    behind the start token, and negative ones from the end token. A word here is one token.
    """
    before = {"front": 0, "middle": tokens // 2, "end": tokens}[place]
    after = tokens - before
    return "a " * before + "{}" + " a" * after + ".", (*range(before), *range(-after - 1, -1))


# CLIP's prompt, all of which but the class name is learned
PHOTO = "a photo of a {}.", (0, 1, 2, 3, -1)


def context_places(
    text: TextTransformer, tokens: Int[Array, "n t"], inside: Sequence[int]
) -> Int[Array, "n k"]:
    """Where in the rows the places `inside` each text (see `prompt`) are."""
    lengths = text.ends(tokens)[:, None] - 1
    return 1 + jnp.array(inside, jnp.int32) % lengths


def random_context(length: int, width: int, key: Array) -> Float[Array, "k d"]:
    """CoOp's start: normal, of standard deviation 0.02."""
    return Normal(0.02)(key, (length, width), jnp.float32)


def context_of(
    text: TextTransformer, tokens: Int[Array, "t"], inside: Sequence[int]
) -> Float[Array, "k d"]:
    """The embeddings of a text's tokens at the places `inside` it."""
    rows = jnp.asarray(tokens)[None]
    return text.tokens[...][rows[0, context_places(text, rows, inside)[0]]].astype(jnp.float32)


class TunedTextHead(nnx.Module):
    """exp(logit_scale) * cos(projected image, projected text of the class) (LIFT+ section 5).

    Trained are, besides tuners in the blocks of the text tower:

        context     f32[k d], the embeddings of the tokens `inside` every text (see `prompt`): CoOp
        image_proj, text_proj   with `proj`, where the backbone has them
        image_adapter, text_adapter  bottlenecks of width `adapter` on what is projected

    All texts are encoded in every step, `CHUNK` tokens at once, and again for the gradient; only
    their features are kept. `encode_once` ends that, for tests.

    Args:
        backbone: its text tower and what joins that with the images are shared, not copied.
        tokens: a text for each class, i32[c t].
        init: of the adapters, as in `tuner.init`.
        devices: that share the texts: the leaf `tokens` i32[rows chunks t] is cut along its rows.
    """

    def __init__(
        self,
        backbone: Backbone,
        tokens: Int[Array, "c t"] | Int[np.ndarray, "c t"],
        *,
        context: Float[Array, "k d"] | None = None,
        inside: Sequence[int] = (),
        proj: bool = False,
        adapter: int = 0,
        init: str = "kaiming_uniform",
        devices: int = 1,
        rngs: nnx.Rngs,
    ):
        text, scale = backbone.text, backbone.logit_scale
        assert text is not None and scale is not None

        def projection(own: nnx.Param | None) -> nnx.Param | None:
            return Tuned(own[...]) if own is not None and proj else own

        def bottleneck() -> Adapter | None:
            site = Site(
                backbone.config.embed,
                {},
                len(tokens),
                options=TunerSettings(dim=adapter, init=init),
            )
            return Adapter(site, rngs=rngs) if adapter else None

        chunks = -(-len(tokens) * tokens.shape[1] // (CHUNK * devices))
        rows = -(-len(tokens) // (chunks * devices)) * devices
        padded = jnp.pad(jnp.asarray(tokens), ((0, rows * chunks - len(tokens)), (0, 0)), "edge")
        self.classes = len(tokens)
        self.inside = tuple(inside)
        self.text: TextTransformer | None = text
        self.tokens: Fixed | None = Fixed(padded.reshape(rows, chunks, -1))
        self.context = None if context is None else Tuned(context)
        self.features: Fixed | None = None
        self.image_proj = projection(backbone.image_proj)
        self.text_proj = projection(backbone.text_proj)
        self.image_adapter = bottleneck()
        self.text_adapter = bottleneck()
        self.logit_scale = scale
        self.logit_bias = backbone.logit_bias

    def encode(self) -> Float[Array, "c d"]:
        """The features of the texts, before the projection."""
        if self.features is not None:
            return self.features[...]
        text, tokens = self.text, self.tokens
        assert text is not None and tokens is not None

        def chunk(rows: Int[Array, "r t"]) -> Float[Array, "r d"]:
            context = None
            if self.context is not None:
                context = self.context[...], context_places(text, rows, self.inside)
            return text(rows, context).astype(jnp.float32)

        # the loop is what keeps XLA from encoding once for both passes
        remade = jax.checkpoint(chunk, prevent_cse=False)
        features = jax.lax.map(remade, tokens[...].swapaxes(0, 1)).swapaxes(0, 1)
        return features.reshape(-1, features.shape[2])[: self.classes]

    def encode_once(self, sharding: jax.sharding.Sharding | None = None) -> None:
        """Encodes the texts as they are now; the features stay, and the tower goes."""
        graph, leaves = tree.flatten(self)
        encode = jax.jit(lambda arrays: tree.merge(graph, arrays).encode(), out_shardings=sharding)
        features = encode({path: leaf[...] for path, leaf in leaves.items()})
        self.features = nnx.data(Fixed(features))
        self.text = self.tokens = self.context = None

    def embed(self, features: Float[Array, "n d"]) -> Float[Array, "n e"]:
        return _join(features, self.image_proj, self.image_adapter)

    def classify(self, embedded: Float[Array, "n e"]) -> Float[Array, "n c"]:
        texts = _join(self.encode(), self.text_proj, self.text_adapter)
        logits = jnp.exp(self.logit_scale[...].astype(jnp.float32)) * embedded @ texts.T
        bias = self.logit_bias
        return logits if bias is None else logits + bias[...].astype(jnp.float32)


def _join(
    features: Float[Array, "n d"], matrix: nnx.Param | None, adapter: Adapter | None
) -> Float[Array, "n e"]:
    """Features in the space that images and texts share, of unit length."""
    features = features.astype(jnp.float32)
    if matrix is not None:
        features = features @ matrix[...].astype(jnp.float32)
    if adapter is not None:
        features = features + adapter.branch(features)
    return normalise(features)


def encode_texts_once(
    graph: nnx.GraphDef[Classifier], leaves: tree.Tree, sharding: jax.sharding.Sharding
) -> tuple[nnx.GraphDef[Classifier], tree.Tree]:
    """A classifier whose `TextHead` has encoded its texts once; any other as it is."""
    model = tree.merge(graph, leaves)
    if not isinstance(model.head, TunedTextHead):
        return graph, leaves
    model.head.encode_once(sharding)
    graph, variables = tree.flatten(model)
    return graph, {path: leaf[...] for path, leaf in variables.items()}
