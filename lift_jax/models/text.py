"""The CLIP text tower."""

from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from lift_jax.models.blocks import Block
from lift_jax.models.layers import LayerNorm, Normal


@dataclass(frozen=True)
class TextConfig:
    """Sizes of a text tower. `eot` is the token that is pooled (the first one in a row);
    None pools the largest id, which is the end-of-text token in OpenAI's vocabulary.
    """

    vocab: int
    context: int
    width: int
    layers: int
    heads: int
    mlp: int
    activation: str = "quick_gelu"
    eps: float = 1e-5
    eot: int | None = None


class TextTransformer(nnx.Module):
    """Token and position embeddings, causal blocks, ln_final, the feature at the end-of-text."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs):
        c = config
        self.config = config
        self.tokens = nnx.Param(Normal(0.02)(rngs.params(), (c.vocab, c.width), jnp.float32))
        self.positions = nnx.Param(Normal(0.01)(rngs.params(), (c.context, c.width), jnp.float32))
        self.blocks = nnx.List(
            Block(c.width, c.heads, c.mlp, c.activation, c.eps, c.layers, rngs=rngs)
            for _ in range(c.layers)
        )
        self.ln_final = LayerNorm(c.width, eps=c.eps)

    @property
    def width(self) -> int:
        return self.config.width

    def __call__(self, tokens: Int[Array, "n t"]) -> Float[Array, "n d"]:
        """Token ids to the feature at the end-of-text token.

        Raises ValueError unless t <= `config.context`.
        """
        n, t = tokens.shape
        if t > self.config.context:
            raise ValueError(f"expected at most {self.config.context} tokens a text, found {t}")
        x = self.tokens[...][tokens] + self.positions[...][:t]
        mask = jnp.tril(jnp.ones((t, t), bool))
        for block in self.blocks:
            x = block(x, mask)
        ends = tokens if self.config.eot is None else tokens == self.config.eot
        return self.ln_final(x[jnp.arange(n), jnp.argmax(ends, axis=1)])
