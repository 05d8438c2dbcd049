"""The ViT image tower: CLIP, SigLIP, DINOv2, DINOv3 and other plain ViTs."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lift_jax.models.block import Block
from lift_jax.models.layers import (
    ACTIVATIONS,
    LayerNorm,
    Linear,
    Normal,
    PatchStem,
    attention,
    block_border,
)
from lift_jax.models.precision import Precision, types_of

# The values that each block saves for its backward pass (train.remat): its input, or also the
# results of its matrix products with weights. Everything else is computed again.
REMAT = {
    "blocks": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
BORDER = "border"  # the name, for such policies, of the activations between two blocks
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of a ViT. The defaults are CLIP's; the fields after `std` are how other ViTs differ.

    `resolution` and `patch` are in pixels; `mean` and `std` are of RGB values in 0..1. `layers` is
    the number of blocks, `mlp` the width of their hidden layer.
    """

    resolution: int
    patch: int
    width: int
    layers: int
    heads: int
    mlp: int
    activation: str = "quick_gelu"
    eps: float = 1e-5
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    pool: str = "cls"  # "cls": the feature is the CLS token; "map": SigLIP's `AttentionPool`
    stem_bias: bool = False
    ln_pre: bool = True
    registers: int = 0  # number of learned tokens behind CLS without position (DINOv2, DINOv3)
    rope: float = 0.0  # base of rotary positions (DINOv3); 0: learned positions instead
    layer_scale: bool = False
    gated: bool = False
    unbiased: tuple[str, ...] = ()  # names of the blocks' linear layers without bias

    @property
    def grid(self) -> int:
        """Returns the number of patches along a side."""
        return self.resolution // self.patch


class AttentionPool(nnx.Module):
    """SigLIP's pooling: a learned probe attends to all tokens, then x += MLP(LN x)."""

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


class VisionTransformer(nnx.Module):
    """A ViT: patch stem, CLS token, positions, ln_pre, blocks, ln_post, pooling."""

    def __init__(self, config: VisionConfig, *, rngs: nnx.Rngs):
        c = config
        scale = Normal(c.width**-0.5)
        tokens = c.grid**2 + (c.pool == "cls")

        def embedding(*shape: int) -> nnx.Param:
            return nnx.Param(scale(rngs.params(), shape, jnp.float32))

        self.config = config
        self.remat = "none"  # or a key of REMAT
        self.precision: Precision | None = None  # None: the dtype of the stem's weights in all
        self.stem = PatchStem(c.patch, c.width, bias=c.stem_bias, rngs=rngs)
        self.cls = embedding(c.width) if c.pool == "cls" else None
        self.positions = None if c.rope else embedding(tokens, c.width)
        self.registers = embedding(c.registers, c.width) if c.registers else None
        self.ln_pre = LayerNorm(c.width, eps=c.eps) if c.ln_pre else None
        self.blocks = nnx.List(
            Block(
                c.width, c.heads, c.mlp, c.activation, c.eps, c.layers, rngs=rngs,
                layer_scale=c.layer_scale, gated=c.gated, unbiased=c.unbiased,
            )
            for _ in range(c.layers)
        )  # fmt: skip
        self.ln_post = LayerNorm(c.width, eps=c.eps)
        pool = (c.width, c.heads, c.mlp, c.activation, c.eps)
        self.pool = AttentionPool(*pool, rngs=rngs) if c.pool == "map" else None

    @property
    def width(self) -> int:
        """Returns the width of the feature."""
        return self.config.width

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

        if self.cls is not None:
            x = jnp.concatenate([tokens(self.cls), x], axis=1)
        if self.positions is not None:
            x = x + self.positions[...].astype(x.dtype)
        if self.registers is not None:
            x = jnp.concatenate([x[:, :1], tokens(self.registers), x[:, 1:]], axis=1)
        return x if self.ln_pre is None else self.ln_pre(x)

    def __call__(self, images: Float[Array, "n h w 3"]) -> Float[Array, "n d"]:
        """Returns the feature of normalised images: CLS after ln_post, or the output of `pool`.

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
        return self.upper(x, 0) if k == len(self.blocks) else self._through(x, 0, k)

    def upper(self, x: Float[Array, "n ..."], k: int) -> Float[Array, "n d"]:
        """Returns the feature from the output of `lower` for the same k."""
        depth = len(self.blocks)
        if k == depth:
            return x
        x = self._through(x, k, depth)
        if self.pool is None:
            return self.ln_post(x[:, 0])
        return self.pool(self.ln_post(x), self._products(x))

    def _products(self, x: Array) -> DTypeLike:
        """Returns the dtype of matrix products in the blocks, for a residual stream x."""
        return x.dtype if self.precision is None else self.precision.products

    def _through(self, x: Float[Array, "n t d"], start: int, end: int) -> Float[Array, "n m d"]:
        """Passes tokens through the blocks start to end - 1.

        If the feature is the CLS token, the tower's last block returns it alone (m = 1).
        """
        angles = rotary_angles(self.config) if self.config.rope else None
        prompts = 0
        for i in range(start, end):
            x, angles, prompts = self.blocks[i].tokens(x, angles, prompts)
            last = self.pool is None and i == len(self.blocks) - 1
            products = self._products(x)
            block = partial(self.blocks[i], angles=angles, first_only=last, products=products)
            if self.remat != "none":
                block = jax.checkpoint(block, policy=REMAT[self.remat])
            x = checkpoint_name(block_border(block(x)), BORDER)
        return x


def rotary_angles(config: VisionConfig) -> Float[Array, "n h"]:
    """Returns DINOv3's rotary angles of all tokens for one head, f32[tokens width/heads].

    CLS and registers have the angle 0. The centre (y, x) of a patch, in -1 to 1, is multiplied by
    the d/4 frequencies 2 pi / rope^(4 i / d), where d is the width of a head. The second half of
    the angles repeats the first.
    """
    c = config
    size = c.width // c.heads
    centres = (np.arange(c.grid) + 0.5) / c.grid * 2 - 1
    frequencies = 2 * np.pi / c.rope ** (4 * np.arange(size // 4) / size)
    patches = np.stack(np.meshgrid(centres, centres, indexing="ij"), axis=-1).reshape(-1, 2)
    angles = (patches[:, :, None] * frequencies).reshape(len(patches), size // 2)
    angles = np.concatenate([np.zeros((1 + c.registers, size // 2)), angles])
    return jnp.asarray(np.tile(angles, 2), jnp.float32)
