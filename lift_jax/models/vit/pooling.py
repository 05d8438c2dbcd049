"""Poolings with weights: a learned vector attends to all tokens of an image."""

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lift_jax.models.blocks.layers import ACTIVATIONS, LayerNorm, Linear, Normal, attention
from lift_jax.models.vit.config import VisionConfig


class AttentionPool(nnx.Module):
    """The pooling of SigLIP and PE: a learned probe attends to the tokens, then x += MLP(LN x)."""

    def __init__(self, width: int, heads: int, mlp: int, activation: str, eps: float, *, rngs):
        self.probe = nnx.Param(Normal(width**-0.5)(rngs.params(), (width,), jnp.float32))
        self.q = Linear(width, width, rngs=rngs)
        self.k = Linear(width, width, rngs=rngs)
        self.v = Linear(width, width, rngs=rngs)
        self.out = Linear(width, width, rngs=rngs)
        self.ln = LayerNorm(width, eps=eps)
        self.fc1 = Linear(width, mlp, rngs=rngs)
        self.fc2 = Linear(mlp, width, rngs=rngs)
        self.heads = heads
        self.activation = activation

    def __call__(self, x: Float[Array, "b n d"], products: DTypeLike) -> Float[Array, "b d"]:
        """Returns the pooled feature in the dtype of x; see `Block` for `products`."""
        stream, x = x.dtype, x.astype(products)
        probe = jnp.broadcast_to(self.probe[...].astype(x.dtype), (x.shape[0], 1, x.shape[2]))
        x = self.out(attention(self.q(probe), self.k(x), self.v(x), self.heads))[:, 0]
        x = x.astype(stream)
        y = self.ln(x).astype(products)
        return x + self.fc2(ACTIVATIONS[self.activation](self.fc1(y))).astype(stream)


class QueryPool(nnx.Module):
    """OpenCLIP's attentional pooling: one learned query attends to all tokens.

    Its LayerNorms have PyTorch's eps, whatever the tower's. Of the queries of a CoCa, the feature
    is the first one's; the others serve its captions.
    """

    def __init__(self, width: int, feature: int, heads: int, *, rngs: nnx.Rngs):
        self.query = nnx.Param(Normal(1.0)(rngs.params(), (1, feature), jnp.float32))
        self.ln_q = LayerNorm(feature)
        self.ln_k = LayerNorm(width)
        self.q = Linear(feature, feature, rngs=rngs)
        self.k = Linear(width, feature, rngs=rngs)
        self.v = Linear(width, feature, rngs=rngs)
        self.out = Linear(feature, feature, rngs=rngs)
        self.heads = heads

    def __call__(self, x: Float[Array, "b n d"], products: DTypeLike) -> Float[Array, "b f"]:
        """Returns the pooled feature in the dtype of x; see `Block` for `products`."""
        y = self.ln_k(x).astype(products)
        q = self.q(self.ln_q(self.query[...].astype(x.dtype)).astype(products))
        q = jnp.broadcast_to(q, (x.shape[0], *q.shape))
        return self.out(attention(q, self.k(y), self.v(y), self.heads))[:, 0].astype(x.dtype)


def pooling(c: VisionConfig, rngs: nnx.Rngs) -> AttentionPool | QueryPool | None:
    """Returns the pooling that has weights of its own, if there is one."""
    heads = c.pool_heads or c.heads
    if c.pool in ("map", "map_all"):
        mlp = c.pool_mlp or c.mlp
        return AttentionPool(c.width, heads, mlp, c.activation, c.eps, rngs=rngs)
    if c.pool == "query":
        return QueryPool(c.width, c.feature or c.width, heads, rngs=rngs)
    return None
