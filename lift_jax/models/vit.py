"""The CLIP image tower."""

from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from lift_jax.models.blocks import Block
from lift_jax.models.layers import LayerNorm, Normal, PatchStem, block_border

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of an image tower; `resolution` and `patch` in pixels, mean and std of RGB in 0..1."""

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


class VisionTransformer(nnx.Module):
    """Patch stem without bias, CLS token, learned positions, ln_pre, blocks, ln_post on CLS."""

    def __init__(self, config: VisionConfig, *, rngs: nnx.Rngs):
        c = config
        scale = Normal(c.width**-0.5)
        tokens = (c.resolution // c.patch) ** 2 + 1
        self.config = config
        self.stem = PatchStem(c.patch, c.width, rngs=rngs)
        self.cls = nnx.Param(scale(rngs.params(), (c.width,), jnp.float32))
        self.positions = nnx.Param(scale(rngs.params(), (tokens, c.width), jnp.float32))
        self.ln_pre = LayerNorm(c.width, eps=c.eps)
        self.blocks = nnx.List(
            Block(c.width, c.heads, c.mlp, c.activation, c.eps, c.layers, rngs=rngs)
            for _ in range(c.layers)
        )
        self.ln_post = LayerNorm(c.width, eps=c.eps)

    @property
    def width(self) -> int:
        return self.config.width

    def __call__(self, images: Float[Array, "n h w 3"]) -> Float[Array, "n d"]:
        """Normalised images to the CLS feature after ln_post, before the projection.

        Computes in the dtype of the stem's weights. Raises ValueError unless h and w are
        `config.resolution`.
        """
        size = self.config.resolution
        if images.shape[1:] != (size, size, 3):
            raise ValueError(f"expected images [n, {size}, {size}, 3], found {images.shape}")
        x = self.stem(images.astype(self.stem.linear.kernel[...].dtype))
        cls = jnp.broadcast_to(self.cls[...].astype(x.dtype), (x.shape[0], 1, x.shape[2]))
        x = jnp.concatenate([cls, x], axis=1) + self.positions[...].astype(x.dtype)
        x = self.ln_pre(x)
        for i, block in enumerate(self.blocks):
            x = block_border(block(x, first_only=i == len(self.blocks) - 1))
        return self.ln_post(x[:, 0])
