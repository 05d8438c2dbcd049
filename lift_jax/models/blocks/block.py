"""The pre-LN transformer block, with its tuners."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lift_jax.models.blocks.layers import (
    ACTIVATIONS,
    LayerNorm,
    Linear,
    Normal,
    affine,
    attention,
    rotate,
)
from lift_jax.models.tunable import Tunable


class Block(Tunable):
    """A transformer block, x += Attn(LN1 x); x += MLP(LN2 x), whose tuners can change each layer.

    The outputs of LN1 and LN2 are converted to the dtype of matrix products, in which the layers
    and tuners of both branches compute; their results are added in that of x.

    Args:
        width: width of the residual stream.
        heads: number of attention heads.
        mlp: width of the MLP's hidden layer.
        activation: a key of `ACTIVATIONS`.
        eps: of both LayerNorms.
        depth: number of blocks in the tower, which scales the initialisation.
        layer_scale: scale the output of both branches by a learned vector (DINOv2).
        gated: multiply two hidden layers, act(gate y) * fc1 y, as SwiGLU does.
        unbiased: names of the linear layers without bias.
        inner_norms: names of the linear layers with a LayerNorm on their input ("out", "fc2").
    """

    def __init__(
        self,
        width: int,
        heads: int,
        mlp: int,
        activation: str,
        eps: float,
        depth: int,
        *,
        rngs: nnx.Rngs,
        layer_scale: bool = False,
        gated: bool = False,
        unbiased: Sequence[str] = (),
        inner_norms: Sequence[str] = (),
    ):
        residual = Normal(width**-0.5 * (2 * depth) ** -0.5)
        hidden = Normal((2 * width) ** -0.5)

        def linear(name: str, inputs: int, outputs: int, init=None) -> Linear:
            return Linear(inputs, outputs, rngs=rngs, init=init, bias=name not in unbiased)

        self.ln1 = LayerNorm(width, eps=eps)
        self.q = linear("q", width, width)
        self.k = linear("k", width, width)
        self.v = linear("v", width, width)
        self.out = linear("out", width, width, residual)
        self.ln2 = LayerNorm(width, eps=eps)
        self.gate = linear("gate", width, mlp, hidden) if gated else None
        self.fc1 = linear("fc1", width, mlp, hidden)
        self.fc2 = linear("fc2", mlp, width, residual)
        self.scale1 = nnx.Param(jnp.ones(width, jnp.float32)) if layer_scale else None
        self.scale2 = nnx.Param(jnp.ones(width, jnp.float32)) if layer_scale else None
        self.ln_out = LayerNorm(width, eps=eps) if "out" in inner_norms else None
        self.ln_fc2 = LayerNorm(mlp, eps=eps) if "fc2" in inner_norms else None
        self.heads = heads
        self.activation = activation
        self.hold({})

    def layers(self) -> dict[str, Linear | LayerNorm]:
        """Returns the linear layers and LayerNorms by name."""
        names = ("ln1", "q", "k", "v", "out", "ln2", "gate", "fc1", "fc2")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def tokens(
        self, x: Float[Array, "b n d"], angles: Float[Array, "n h"] | None, prompts: int
    ) -> tuple[Array, Array | None, int]:
        """Returns the tokens with this block's prompts inserted (see `Tuner.tokens`)."""
        for tuner in self.held:
            x, angles, prompts = tuner.tokens(x, angles, prompts)
        return x, angles, prompts

    def _linear(self, name: str, y: Array) -> Array:
        kernel, bias = getattr(self, name).weights()
        for tuner in self.held:
            kernel, bias = tuner.weights(name, kernel, bias)
        out = affine(y, kernel, bias)
        for tuner in self.held:
            out = tuner.linear(name, y, out)
        return out

    def _norm(self, name: str, x: Array, dtype: DTypeLike) -> Array:
        y = getattr(self, name)(x)
        for tuner in self.held:
            y = tuner.normed(name, y)
        return y.astype(dtype)

    def __call__(
        self,
        x: Float[Array, "b n d"],
        causal: bool = False,
        angles: Float[Array, "n h"] | None = None,
        first_only: bool = False,
        products: DTypeLike | None = None,
    ) -> Float[Array, "b m d"]:
        """Returns the n tokens after the block, or the first one alone (m = 1).

        Args:
            causal: let no token attend to those behind it.
            angles: the tokens' rotary positions, in towers that have them.
            first_only: compute queries, output projection, MLP and tuners for the first token
                alone; keys and values are computed for all. The result is exact. In the last
                block it saves 8 % of a ViT-B/16's work.
            products: dtype of the operands of matrix products; None: that of x. The result has the
                dtype of x.
        """
        products = products or x.dtype
        y = self._norm("ln1", x, products)
        k, v = self._linear("k", y), self._linear("v", y)
        if angles is not None:
            k = rotate(k, angles)
        if first_only:
            x, y = x[:, :1], y[:, :1]
        q = self._linear("q", y)
        if angles is not None:
            q = rotate(q, angles[: q.shape[1]])
        return self.mixed(x, attention(q, k, v, self.heads, causal), products)

    def mixed(
        self, x: Float[Array, "b n d"], mixture: Float[Array, "b n d"], products: DTypeLike
    ) -> Array:
        """Returns the tokens x after the block, given what attention mixed for them.

        `products` is the dtype of the operands of matrix products.
        """
        a = self._linear("out", mixture if self.ln_out is None else self.ln_out(mixture))
        a = a.astype(x.dtype)
        x = x + (a if self.scale1 is None else a * self.scale1[...].astype(x.dtype))
        y = self._norm("ln2", x, products)
        act = ACTIVATIONS[self.activation]
        h = self._linear("fc1", y)
        h = act(h) if self.gate is None else act(self._linear("gate", y)) * h
        m = self._linear("fc2", h if self.ln_fc2 is None else self.ln_fc2(h))
        if self.scale2 is not None:
            m = (m.astype(x.dtype) * self.scale2[...].astype(x.dtype)).astype(m.dtype)
        for tuner in self.held:
            m = tuner.mlp(x, m)
        return x + m.astype(x.dtype)
