"""The text towers of CLIP and SigLIP."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from lift_jax.models.blocks.block import Block
from lift_jax.models.blocks.layers import LayerNorm, Linear, Normal
from lift_jax.models.precision import Precision, types_of
from lift_jax.models.sizes import later


@dataclass(frozen=True)
class TextConfig:
    """Sizes of a text tower.

    CLIP's tower (`pool` "eot") has causal attention. Its feature is taken at the first end-of-text
    token `eot`; with `eot` None at the largest id, which is that token in OpenAI's vocabulary.
    SigLIP's tower (`pool` "last") attends to all `context` tokens, padding included. Its feature is
    a linear layer with `head` outputs (0: `width`) on the last token.
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
    layer_scale: bool = later(default=False)


class TextTransformer(nnx.Module):
    """A text tower: token and position embeddings, blocks, ln_final, pooling."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs):
        c = config
        self.config = config
        self.precision: Precision | None = None  # None: the dtype of the token embeddings in all
        self.tokens = nnx.Param(Normal(0.02)(rngs.params(), (c.vocab, c.width), jnp.float32))
        self.positions = nnx.Param(Normal(0.01)(rngs.params(), (c.context, c.width), jnp.float32))
        self.blocks = nnx.List(
            Block(
                c.width, c.heads, c.mlp, c.activation, c.eps, c.layers, rngs=rngs,
                layer_scale=c.layer_scale,
            )
            for _ in range(c.layers)
        )  # fmt: skip
        self.ln_final = LayerNorm(c.width, eps=c.eps)
        self.head = Linear(c.width, self.width, rngs=rngs) if c.pool == "last" else None

    @property
    def width(self) -> int:
        """Returns the width of the feature."""
        return self.config.head or self.config.width

    def ends(self, tokens: Int[Array | np.ndarray, "n t"]) -> Int[Array | np.ndarray, " n"]:
        """Returns the index of each text's first end-of-text token."""
        marks = tokens if self.config.eot is None else tokens == self.config.eot
        return marks.argmax(axis=1)

    def __call__(
        self, tokens: Int[Array, "n t"], context: tuple[Array, Array] | None = None
    ) -> Float[Array, "n d"]:
        """Returns the feature of each text from its token ids, padded to a length t.

        `context` is a pair of embeddings f32[k d] and positions i32[n k]: in each row the
        embeddings replace those of the tokens at its positions. Raises ValueError if t is larger
        than `config.context`.
        """
        own = types_of(self.precision, self.tokens[...])
        n, t = tokens.shape
        if t > self.config.context:
            raise ValueError(f"expected at most {self.config.context} tokens a text, found {t}")
        x = self.tokens[...][tokens].astype(own.stream)
        if context is not None:
            embeddings, positions = context
            x = x.at[jnp.arange(n)[:, None], positions].set(embeddings.astype(x.dtype))
        x = x + self.positions[...][:t].astype(x.dtype)
        prompts = 0  # number of tokens that tuners have inserted behind the first one
        for block in self.blocks:
            x, _, prompts = block.tokens(x, None, prompts)
            x = block(x, causal=self.head is None, products=own.products)
        if self.head is not None:
            return self.head(self.ln_final(x[:, -1]).astype(own.products))
        return self.ln_final(x[jnp.arange(n), prompts + self.ends(tokens)])
