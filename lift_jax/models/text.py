"""The text tower of CLIP and of SigLIP."""

from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from lift_jax.models.block import Block
from lift_jax.models.layers import LayerNorm, Linear, Normal


@dataclass(frozen=True)
class TextConfig:
    """Sizes of a text tower.

    CLIP's is causal, and its feature is at the end-of-text token `eot` (the first one in a row);
    None pools the largest id, which is that token in OpenAI's vocabulary. SigLIP's sees all
    `context` tokens, padding too, and its feature is a linear layer on the last one (`pool`
    "last") of `head` outputs (0: as many as inputs).
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
    pool: str = "eot"
    head: int = 0


class TextTransformer(nnx.Module):
    """Token and position embeddings, blocks, ln_final, the pooled feature."""

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
        self.head = Linear(c.width, self.width, rngs=rngs) if c.pool == "last" else None

    @property
    def width(self) -> int:
        return self.config.head or self.config.width

    def ends(self, tokens: Int[Array, "n t"]) -> Int[Array, " n"]:
        """The index of each text's end token, the first one."""
        return jnp.argmax(tokens if self.config.eot is None else tokens == self.config.eot, axis=1)

    def __call__(
        self, tokens: Int[Array, "n t"], context: tuple[Array, Array] | None = None
    ) -> Float[Array, "n d"]:
        """Token ids to the feature of each text.

        `context`: embeddings f32[k d] and indices i32[n k] of the tokens that they stand for.
        Raises ValueError unless t <= `config.context`.
        """
        n, t = tokens.shape
        if t > self.config.context:
            raise ValueError(f"expected at most {self.config.context} tokens a text, found {t}")
        x = self.tokens[...][tokens]
        if context is not None:
            learned, places = context
            x = x.at[jnp.arange(n)[:, None], places].set(learned.astype(x.dtype))
        x = x + self.positions[...][:t]
        prompts = 0  # behind the first token
        for block in self.blocks:
            x, _, prompts = block.tokens(x, None, prompts)
            x = block(x, causal=self.head is None)
        if self.head is not None:
            return self.head(self.ln_final(x[:, -1]))
        return self.ln_final(x[jnp.arange(n), prompts + self.ends(tokens)])
