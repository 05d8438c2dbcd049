"""The ViT image tower: CLIP, SigLIP, DINOv2, DINOv3 and other plain ViTs."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lift_jax.models.blocks.block import Block
from lift_jax.models.blocks.layers import LayerNorm, Normal, PatchStem, block_border
from lift_jax.models.precision import Precision, types_of
from lift_jax.models.vit.config import VisionConfig
from lift_jax.models.vit.pooling import pooling
from lift_jax.models.vit.rotary import rotary_angles

# The values that each block saves for its backward pass (train.remat): its input, or also the
# results of its matrix products with weights. Everything else is computed again.
REMAT = {
    "blocks": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
BORDER = "border"  # the name, for such policies, of the activations between two blocks


class VisionTransformer(nnx.Module):
    """A ViT: patch stem, CLS token, registers, positions, ln_pre, blocks, ln_post, pooling."""

    def __init__(self, config: VisionConfig, *, rngs: nnx.Rngs):
        c = config
        scale = Normal(c.width**-0.5)
        tokens = c.grid**2 + c.placed

        def embedding(*shape: int) -> nnx.Param:
            return nnx.Param(scale(rngs.params(), shape, jnp.float32))

        self.config = config
        self.remat = "none"  # or a key of REMAT
        self.precision: Precision | None = None  # None: the dtype of the stem's weights in all
        self.stem = PatchStem(c.patch, c.width, bias=c.stem_bias, rngs=rngs)
        self.cls = embedding(c.width) if c.has_class_token else None
        self.positions = embedding(tokens, c.width) if c.has_positions else None
        self.registers = embedding(c.registers, c.width) if c.registers else None
        self.ln_pre = LayerNorm(c.width, eps=c.eps) if c.ln_pre else None
        self.blocks = nnx.List(
            Block(
                c.width, c.heads, c.mlp, c.activation, c.eps, c.layers, rngs=rngs,
                layer_scale=c.layer_scale, gated=c.gated, unbiased=c.unbiased,
                inner_norms=c.inner_norms,
            )
            for _ in range(c.layers)
        )  # fmt: skip
        after_pool = self.width if c.last_norm == "after" else c.width
        self.ln_post = None if c.last_norm == "none" else LayerNorm(after_pool, eps=c.eps)
        self.pool = pooling(c, rngs)

    @property
    def width(self) -> int:
        """Returns the width of the feature."""
        return self.config.feature or self.config.width

    @property
    def types(self) -> Precision:
        """Returns the types of the arrays in this tower."""
        return types_of(self.precision, self.stem.linear.kernel[...])

    def _embed(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b n d"]:
        """Returns the input of the first block: CLS, registers and patches, with positions."""
        x = self.stem(images.astype(self.types.products)).astype(self.types.stream)

        def tokens(param: nnx.Param) -> Array:
            rows = param[...].astype(x.dtype).reshape(-1, x.shape[2])
            return jnp.broadcast_to(rows, (x.shape[0], *rows.shape))

        c = self.config
        own = [tokens(param) for param in (self.cls, self.registers) if param is not None]
        placed = {"none": 0, "cls": int(c.has_class_token), "all": len(own)}[c.positioned]
        if placed:
            x = jnp.concatenate([*own[:placed], x], axis=1)
        if self.positions is not None:
            x = x + self.positions[...].astype(x.dtype)
        if own[placed:]:
            start = c.placed
            x = jnp.concatenate([x[:, :start], *own[placed:], x[:, start:]], axis=1)
        return x if self.ln_pre is None else self.ln_pre(x)

    def __call__(self, images: Float[Array, "n h w 3"]) -> Float[Array, "n d"]:
        """Returns the feature of normalised images, as `config.pool` says.

        There is no projection. The dtype is that of the residual stream. Raises ValueError unless
        h and w are `config.resolution`.
        """
        return self.upper(self.lower(images, 0), 0)

    def lower(self, images: Float[Array, "n h w 3"], k: int) -> Float[Array, "n ..."]:
        """Returns the activations that enter block k, [n t d]; for k = depth the feature [n d].

        `upper` computes the rest. The blocks below k must not hold prompts. Raises ValueError as
        the tower itself.
        """
        c = self.config
        if images.shape[1:] != (c.resolution, c.resolution, 3):
            raise ValueError(
                f"expected images [n, {c.resolution}, {c.resolution}, 3], found {images.shape}"
            )
        x = self._embed(images)
        return self.upper(x, 0) if k == len(self.blocks) else self._through(x, 0, k)[0]

    def upper(self, x: Float[Array, "n ..."], k: int) -> Float[Array, "n d"]:
        """Returns the feature from the output of `lower` for the same k."""
        depth = len(self.blocks)
        if k == depth:
            return x
        return self._feature(*self._through(x, k, depth))

    def _products(self, x: Array) -> DTypeLike:
        """Returns the dtype of matrix products in the blocks, for a residual stream x."""
        return x.dtype if self.precision is None else self.precision.products

    def _through(
        self, x: Float[Array, "n t d"], start: int, end: int
    ) -> tuple[Float[Array, "n m d"], int]:
        """Passes tokens through the blocks start to end - 1.

        Returns the tokens, and the number of those that tuners have inserted. If the feature is the
        CLS token, the tower's last block returns it alone (m = 1).
        """
        angles = rotary_angles(self.config) if self.config.rope else None
        prompts = 0
        for i in range(start, end):
            x, angles, prompts = self.blocks[i].tokens(x, angles, prompts)
            last = self.config.pool == "cls" and i == len(self.blocks) - 1
            products = self._products(x)
            block = partial(self.blocks[i], angles=angles, first_only=last, products=products)
            if self.remat != "none":
                block = jax.checkpoint(block, policy=REMAT[self.remat])
            x = checkpoint_name(block_border(block(x)), BORDER)
        return x, prompts

    def _feature(self, x: Float[Array, "n t d"], prompts: int) -> Float[Array, "n f"]:
        """Returns the feature from the output of the last block.

        `prompts` tokens in x were inserted by tuners. They are no patches and count in no mean, but
        `AttentionPool` and `QueryPool` attend to them.
        """
        c = self.config
        norm = self.ln_post or (lambda x: x)
        if c.pool == "cls":
            return norm(x[:, 0])
        x = norm(x) if c.last_norm == "before" else x
        at_end = any(tuner.end for block in self.blocks for tuner in block.held)
        start = x.shape[1] - prompts if at_end else 1  # of the prompts
        if self.pool is not None:
            if c.pool == "map" and c.prefix:  # which attends to no class token or register
                inserted = x[:, start : start + prompts]
                x = jnp.concatenate([inserted, without(x, start, prompts)[:, c.prefix :]], axis=1)
            x = self.pool(x, self._products(x))
        else:
            x = without(x, start, prompts)
            x = (x[:, :2] if c.pool == "pair" else x[:, c.prefix :]).mean(axis=1)
        return norm(x) if c.last_norm == "after" else x


def without(x: Float[Array, "n t d"], start: int, count: int) -> Float[Array, "n m d"]:
    """Returns the tokens without `count` of them from `start` on."""
    return jnp.concatenate([x[:, :start], x[:, start + count :]], axis=1) if count else x
