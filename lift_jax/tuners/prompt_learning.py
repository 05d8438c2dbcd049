"""The head on tuned texts: CLIP's own classifier, with text features that training changes.

It has learned words in the prompts (CoOp), adapters and trained projections (LIFT+ section 5), and
works with tuners in the text tower.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from lift_jax.models import tree
from lift_jax.models.backbone import Backbone, Classifier
from lift_jax.models.blocks.layers import Normal
from lift_jax.models.heads import l2_normalise
from lift_jax.models.text import TextTransformer
from lift_jax.models.tunable import Fixed, Site, Tuned
from lift_jax.settings.groups.tuner import TunerSettings
from lift_jax.tuners.adapter import Adapter

# Number of tokens that a device encodes at once. 8,142 classes then train in a few GB.
CHUNK = 8192


def learned_template(tokens: int, place: str) -> tuple[str, tuple[int, ...]]:
    """Returns a prompt template with `tokens` words to be learned, and their positions.

    `place` is that of the class name: "front", "middle" or "end". Each word is one token. Positions
    count tokens from the one after the start token; negative ones count back from the end token.
    """
    before = {"front": 0, "middle": tokens // 2, "end": tokens}[place]
    after = tokens - before
    return "a " * before + "{}" + " a" * after + ".", (*range(before), *range(-after - 1, -1))


# CLIP's prompt, and the positions of its words: all but the class name are learned
PHOTO = "a photo of a {}.", (0, 1, 2, 3, -1)


def context_positions(
    text: TextTransformer, tokens: Int[Array, "n t"], word_positions: Sequence[int]
) -> Int[Array, "n k"]:
    """Returns the columns of each row of tokens that hold the words to be learned.

    `word_positions` are as in `learned_template`.
    """
    lengths = text.ends(tokens)[:, None] - 1
    return 1 + jnp.array(word_positions, jnp.int32) % lengths


def random_context(length: int, width: int, key: Array) -> Float[Array, "k d"]:
    """Draws the start of CoOp's words: normal, with standard deviation 0.02."""
    return Normal(0.02)(key, (length, width), jnp.float32)


def context_of(
    text: TextTransformer, tokens: Int[Array, "t"], word_positions: Sequence[int]
) -> Float[Array, "k d"]:
    """Returns the embeddings of the tokens at `word_positions` of a text."""
    rows = jnp.asarray(tokens)[None]
    columns = context_positions(text, rows, word_positions)[0]
    return text.tokens[...][rows[0, columns]].astype(jnp.float32)


class TunedTextHead(nnx.Module):
    """CLIP's own classifier on tuned texts (LIFT+ section 5).

    The logits are exp(logit_scale) * cos(projected image, projected text of the class).

    These leaves are trained, besides tuners in the blocks of the text tower:

        context                      f32[k d], the embeddings of the learned words (CoOp)
        image_proj, text_proj        the projections, with `proj`, where the backbone has them
        image_adapter, text_adapter  bottlenecks on the projected features, with `adapter`

    Every step encodes all texts, `CHUNK` tokens at once, and again for the gradient; it keeps their
    features alone. `encode_once` replaces the tower by the features, for tests.

    Args:
        backbone: shares its text tower, projections and logit scale with the head.
        tokens: the text of each class, i32[c t].
        context: start of the learned words, f32[k d]; None if none is learned.
        word_positions: positions of the learned words in each text, as in `learned_template`.
        proj: train the projections.
        adapter: width of the adapters; 0 for none.
        init: initialisation of the adapters (tuner.init).
        devices: number of devices that share the texts. The leaf `tokens`, i32[rows chunks t], can
            be split along its rows.
    """

    def __init__(
        self,
        backbone: Backbone,
        tokens: Int[Array, "c t"] | Int[np.ndarray, "c t"],
        *,
        context: Float[Array, "k d"] | None = None,
        word_positions: Sequence[int] = (),
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
            settings = TunerSettings(dim=adapter, init=init)
            site = Site(backbone.config.embed, {}, len(tokens), settings=settings)
            return Adapter(site, rngs=rngs) if adapter else None

        chunks = -(-len(tokens) * tokens.shape[1] // (CHUNK * devices))
        rows = -(-len(tokens) // (chunks * devices)) * devices
        padded = jnp.pad(jnp.asarray(tokens), ((0, rows * chunks - len(tokens)), (0, 0)), "edge")
        self.classes = len(tokens)
        self.word_positions = tuple(word_positions)
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
        """Returns the features of the texts before the projection."""
        if self.features is not None:
            return self.features[...]
        text, tokens = self.text, self.tokens
        assert text is not None and tokens is not None

        def chunk(rows: Int[Array, "r t"]) -> Float[Array, "r d"]:
            context = None
            if self.context is not None:
                context = self.context[...], context_positions(text, rows, self.word_positions)
            return text(rows, context).astype(jnp.float32)

        # without the loop XLA would merge the encoding of both passes, and keep all activations
        remade = jax.checkpoint(chunk, prevent_cse=False)
        features = jax.lax.map(remade, tokens[...].swapaxes(0, 1)).swapaxes(0, 1)
        return features.reshape(-1, features.shape[2])[: self.classes]

    def encode_once(self, sharding: jax.sharding.Sharding | None = None) -> None:
        """Encodes the texts with the current weights, keeps the features and drops the tower.

        `sharding` is that of the features.
        """
        graph, leaves = tree.split(self)
        encode = jax.jit(lambda arrays: tree.merge(graph, arrays).encode(), out_shardings=sharding)
        features = encode(leaves)
        self.features = nnx.data(Fixed(features))
        self.text = self.tokens = self.context = None

    def embed(self, features: Float[Array, "n d"]) -> Float[Array, "n e"]:
        return _into_shared_space(features, self.image_proj, self.image_adapter)

    def classify(self, embedded: Float[Array, "n e"]) -> Float[Array, "n c"]:
        texts = _into_shared_space(self.encode(), self.text_proj, self.text_adapter)
        logits = jnp.exp(self.logit_scale[...].astype(jnp.float32)) * embedded @ texts.T
        bias = self.logit_bias
        return logits if bias is None else logits + bias[...].astype(jnp.float32)


def _into_shared_space(
    features: Float[Array, "n d"], matrix: nnx.Param | None, adapter: Adapter | None
) -> Float[Array, "n e"]:
    """Returns features, projected and adapted, at unit length in the space of images and texts."""
    features = features.astype(jnp.float32)
    if matrix is not None:
        features = features @ matrix[...].astype(jnp.float32)
    if adapter is not None:
        features = features + adapter.branch(features, features.dtype)
    return l2_normalise(features)


def encode_texts_once(
    graph: nnx.GraphDef[Classifier], leaves: tree.Tree, sharding: jax.sharding.Sharding
) -> tuple[nnx.GraphDef[Classifier], tree.Tree]:
    """Returns a classifier whose `TunedTextHead` has encoded its texts; others are unchanged."""
    model = tree.merge(graph, leaves)
    if not isinstance(model.head, TunedTextHead):
        return graph, leaves
    model.head.encode_once(sharding)
    return tree.split(model)
