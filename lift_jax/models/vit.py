"""The image tower of CLIP and of every other plain ViT."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
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

# What a block keeps for its backward pass, where it does not keep everything: only its input, or
# also the results of its matrix products with weights.
REMAT = {
    "blocks": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
BORDER = "border"  # the name of what goes from block to block, for such policies
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of an image tower; `resolution` and `patch` in pixels, mean and std of RGB in 0..1.

    The defaults are CLIP's; what follows `std` is how other ViTs differ from it.
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
    pool: str = "cls"  # the feature: "cls", or "map", SigLIP's attention by a learned probe
    stem_bias: bool = False
    ln_pre: bool = True
    registers: int = 0  # learned tokens behind CLS that no position belongs to (DINOv2, DINOv3)
    rope: float = 0.0  # base of rotary positions (DINOv3); 0: learned positions are added
    layer_scale: bool = False
    gated: bool = False
    unbiased: tuple[str, ...] = ()  # the blocks' linear layers that have no bias

    @property
    def grid(self) -> int:
        """Patches along a side."""
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

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b d"]:
        probe = jnp.broadcast_to(self.probe[...].astype(x.dtype), (x.shape[0], 1, x.shape[2]))
        x = self.out(attention(self.q(probe), self.k(x), self.v(x), self.heads))[:, 0]
        return x + self.fc2(ACTIVATIONS[self.activation](self.fc1(self.ln(x))))


class VisionTransformer(nnx.Module):
    """Patch stem, CLS token, positions, ln_pre, blocks, ln_post, and the pooled feature."""

    def __init__(self, config: VisionConfig, *, rngs: nnx.Rngs):
        c = config
        scale = Normal(c.width**-0.5)
        tokens = c.grid**2 + (c.pool == "cls")

        def embedding(*shape: int) -> nnx.Param:
            return nnx.Param(scale(rngs.params(), shape, jnp.float32))

        self.config = config
        self.remat = "none"  # or a key of REMAT
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
        return self.config.width

    def _embed(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b n d"]:
        """Patches with CLS and registers before them, positions added."""
        x = self.stem(images.astype(self.stem.linear.kernel[...].dtype))

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
        """Normalised images to the feature: CLS after ln_post, before any projection, or `pool`'s.

        Computes in the dtype of the stem's weights. Raises ValueError unless h and w are
        `config.resolution`.
        """
        return self.upper(self.lower(images, 0), 0)

    def lower(self, images: Float[Array, "n h w 3"], k: int) -> Float[Array, "n ..."]:
        """What enters block k, [n t d], or for k = depth the feature [n d]; `upper` goes on.

        The blocks below k must not hold prompts.
        """
        c = self.config
        if images.shape[1:] != (c.resolution, c.resolution, 3):
            raise ValueError(
                f"expected images [n, {c.resolution}, {c.resolution}, 3], found {images.shape}"
            )
        x = self._embed(images)
        return self.upper(x, 0) if k == len(self.blocks) else self._through(x, 0, k)

    def upper(self, x: Float[Array, "n ..."], k: int) -> Float[Array, "n d"]:
        """The feature, from what `lower` gives."""
        depth = len(self.blocks)
        if k == depth:
            return x
        x = self._through(x, k, depth)
        return self.ln_post(x[:, 0]) if self.pool is None else self.pool(self.ln_post(x))

    def _through(self, x: Float[Array, "n t d"], start: int, end: int) -> Float[Array, "n m d"]:
        """Tokens through the blocks [start, end); the last of all may leave CLS alone (m = 1)."""
        angles = rotary_angles(self.config) if self.config.rope else None
        prompts = 0
        for i in range(start, end):
            x, angles, prompts = self.blocks[i].tokens(x, angles, prompts)
            last = self.pool is None and i == len(self.blocks) - 1
            block = partial(self.blocks[i], angles=angles, first_only=last)
            if self.remat != "none":
                block = jax.checkpoint(block, policy=REMAT[self.remat])
            x = checkpoint_name(block_border(block(x)), BORDER)
        return x


def rotary_angles(config: VisionConfig) -> Float[Array, "n h"]:
    """DINOv3's angles of CLS, registers (both 0) and patches, for one head.

    A patch's centre (y, x) in [-1, 1] turns a quarter of a head's numbers each, at frequencies
    2 pi / rope^(4 i / d); the second half repeats the first.
    """
    c = config
    size = c.width // c.heads
    centres = (np.arange(c.grid) + 0.5) / c.grid * 2 - 1
    frequencies = 2 * np.pi / c.rope ** (4 * np.arange(size // 4) / size)
    places = np.stack(np.meshgrid(centres, centres, indexing="ij"), axis=-1).reshape(-1, 2)
    angles = (places[:, :, None] * frequencies).reshape(len(places), size // 2)
    angles = np.concatenate([np.zeros((1 + c.registers, size // 2)), angles])
    return jnp.asarray(np.tile(angles, 2), jnp.float32)
