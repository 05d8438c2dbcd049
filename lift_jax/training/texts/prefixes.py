"""CLIP's text tower on texts whose first tokens other texts share: these are encoded once.

Attention is causal, so a token's hidden state, key and value depend on no token behind it. The
features are those of `TextTransformer` but for rounding, and a test holds them to it.
"""

from collections.abc import Sequence
from functools import partial
from math import prod

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Shaped

from lift_jax.models import tree
from lift_jax.models.blocks.block import Block
from lift_jax.models.blocks.layers import LayerNorm
from lift_jax.models.text import TextTransformer
from lift_jax.training.texts.groups import Batch, Part

# Tokens a width from which on the last block has a program of its own, for the ends of texts alone.
# It saves 1/15 of the work on a ViT-B/16's texts, and a CPU compiles it while it encodes 1,300.
END = 20_000

Past = list[tuple[Array, Array]]  # keys and values of prefixes, f32[g p d], of each block


def applies(tower: TextTransformer) -> bool:
    """Returns True for a tower with causal attention and without tuners."""
    return tower.config.pool == "eot" and not any(block.held for block in tower.blocks)


class Encoder:
    """A text tower that `applies` allows, as a chain of steps.

    All blocks run one program, which compiles in a fraction of the whole tower's time: so texts can
    have several widths.
    """

    def __init__(self, tower: TextTransformer, batches: Sequence[Batch]):
        shapes = [part.tokens.shape for batch in batches for part in batch.parts]
        self.ends_alone = sum(map(prod, shapes)) > END * len(set(shapes))
        self.tokens, self.positions = tower.tokens[...], tower.positions[...]
        self.blocks = [tree.split(block) for block in tower.blocks]
        self.norm = tree.split(tower.ln_final)

    def begin(self, batch: Batch) -> Past:
        """Returns the keys and values of a batch's prefixes in each block."""
        x = self.tokens[batch.tokens] + self.positions[: batch.tokens.shape[1]]
        past = []
        for graph, leaves in self.blocks:
            x, own = _begin(graph, leaves, x)
            past.append(own)
        return past

    def features(self, batch: Batch, past: Past, part: Part) -> Float[Array, "m d"]:
        """Returns the features of a part of a batch; `past` is what `begin` returns for it."""
        lengths = batch.lengths[part.prefixes]
        x, allowed = _embed(self.tokens, self.positions, batch.tokens, lengths, part.tokens)
        for i, (graph, leaves) in enumerate(self.blocks):
            ends = part.ends if self.ends_alone and i == len(past) - 1 else None
            x = _continue(graph, leaves, past[i], part.prefixes, x, allowed, ends)
        graph, leaves = self.norm
        return _normalise(graph, leaves, x if self.ends_alone else _at(x, part.ends))


@jax.jit
def _embed(
    embeddings: Float[Array, "v d"],
    positions: Float[Array, "c d"],
    prefixes: Int[Array, "g p"],
    lengths: Int[Array, " n"],
    tokens: Int[Array, "n s"],
) -> tuple[Float[Array, "n s d"], Bool[Array, "n s m"]]:
    """Returns the embeddings of tokens behind prefixes of these lengths.

    Returns also which keys each token attends to, of those of its prefix and then of `tokens`.
    """
    n, width = tokens.shape
    columns = jnp.arange(width)
    before = jnp.arange(prefixes.shape[1]) < lengths[:, None]
    allowed = jnp.concatenate([
        jnp.broadcast_to(before[:, None], (n, width, before.shape[1])),
        jnp.broadcast_to(columns <= columns[:, None], (n, width, width)),
    ], axis=2)  # fmt: skip
    at = lengths[:, None] + columns
    return embeddings[tokens] + positions.at[at].get(mode="clip"), allowed


@partial(jax.jit, static_argnums=0)
def _begin(
    graph: nnx.GraphDef[Block], leaves: tree.Tree, x: Float[Array, "g p d"]
) -> tuple[Array, tuple[Array, Array]]:
    """Returns the prefixes after a block, and their keys and values in it."""
    block = tree.merge(graph, leaves)
    y = block.ln1(x)
    return block(x, causal=True), (block.k(y), block.v(y))


@partial(jax.jit, static_argnums=0)
def _continue(
    graph: nnx.GraphDef[Block],
    leaves: tree.Tree,
    past: tuple[Array, Array],
    prefixes: Int[Array, " n"],
    x: Float[Array, "n s d"],
    allowed: Bool[Array, "n s m"],
    ends: Int[Array, " n"] | None,
) -> Array:
    """Returns the tokens after a block, or only the one at `ends` of each text, f32[n d]."""
    block = tree.merge(graph, leaves)
    y = block.ln1(x)
    k = jnp.concatenate([past[0][prefixes], block.k(y)], axis=1)
    v = jnp.concatenate([past[1][prefixes], block.v(y)], axis=1)
    if ends is not None:
        x, y, allowed = (_at(each, ends)[:, None] for each in (x, y, allowed))
    x = block.mixed(x, _attention(block.q(y), k, v, block.heads, allowed), x.dtype)
    return x if ends is None else x[:, 0]


@jax.jit
def _at(x: Shaped[Array, "n s d"], ends: Int[Array, " n"]) -> Shaped[Array, "n d"]:
    """Returns the row of each text at `ends`."""
    return x[jnp.arange(len(x)), ends]


@partial(jax.jit, static_argnums=0)
def _normalise(
    graph: nnx.GraphDef[LayerNorm], leaves: tree.Tree, x: Float[Array, "n d"]
) -> Float[Array, "n d"]:
    return tree.merge(graph, leaves)(x)


def _attention(
    q: Float[Array, "n s d"],
    k: Float[Array, "n m d"],
    v: Float[Array, "n m d"],
    heads: int,
    allowed: Bool[Array, "n s m"],
) -> Float[Array, "n s d"]:
    """Returns multi-head softmax attention to the keys that are allowed."""
    q, k, v = (x.reshape(*x.shape[:2], heads, -1) for x in (q, k, v))
    mixed = jax.nn.dot_product_attention(q, k, v, mask=allowed[:, None])
    return mixed.reshape(*q.shape[:2], -1)
