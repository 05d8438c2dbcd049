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
    later,
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
# the values of VisionConfig's fields that are words
WORDS = {
    "pool": ("cls", "avg", "pair", "map", "query"),
    "positioned": ("cls", "all", "none"),
    "last_norm": ("before", "after", "none"),
}


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of a ViT. The defaults are CLIP's; the fields after `std` are how other ViTs differ.

    `resolution` and `patch` are in pixels; `mean` and `std` are of RGB values in 0..1. `layers` is
    the number of blocks, `mlp` the width of their hidden layer. `pool` says what the feature is:

    cls    the class token
    avg    the mean of the patches
    pair   the mean of the class token and the first register (a distilled DeiT)
    map    the output of SigLIP's `AttentionPool`
    query  the output of OpenCLIP's `QueryPool` (CoCa)
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
    pool: str = "cls"
    stem_bias: bool = False
    ln_pre: bool = True
    registers: int = 0  # number of learned tokens behind CLS (DINOv2, DINOv3)
    rope: float = 0.0  # base of rotary positions (DINOv3, EVA-02); 0: learned positions alone
    layer_scale: bool = False
    gated: bool = False
    unbiased: tuple[str, ...] = ()  # names of the blocks' linear layers without bias
    class_token: bool | None = later(None)  # None: with the pools "cls" and "pair" alone
    positioned: str = later("cls")  # tokens with a position beside patches: CLS, or all, or none
    last_norm: str = later("before")  # ln_post acts before the pooling, or after it; none: no norm
    feature: int = later(0)  # width of the feature of pool "query"; 0: `width`
    pool_heads: int = later(0)  # of pool "query"; 0: `heads`
    rope_grid: int = later(0)  # side in EVA-02's rotary positions, beside learned ones; 0: DINOv3's
    inner_norms: tuple[str, ...] = later(())  # the blocks' linear layers with a LayerNorm before

    @property
    def grid(self) -> int:
        """Returns the number of patches along a side."""
        return self.resolution // self.patch

    @property
    def has_class_token(self) -> bool:
        """Returns True if there is a class token, which is then the first token."""
        return self.pool in ("cls", "pair") if self.class_token is None else self.class_token

    @property
    def prefix(self) -> int:
        """Returns the number of tokens before the patches: class token and registers."""
        return self.has_class_token + self.registers

    @property
    def has_positions(self) -> bool:
        """Returns True if there are learned positions."""
        return not self.rope or self.rope_grid > 0

    @property
    def placed(self) -> int:
        """Returns the number of tokens before the patches that have a position."""
        return {"none": 0, "cls": int(self.has_class_token), "all": self.prefix}[self.positioned]


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
        self.pool = _pool(c, rngs)

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


def _pool(c: VisionConfig, rngs: nnx.Rngs) -> AttentionPool | QueryPool | None:
    """Returns the pooling that has weights of its own, if there is one."""
    if c.pool == "map":
        return AttentionPool(c.width, c.heads, c.mlp, c.activation, c.eps, rngs=rngs)
    if c.pool == "query":
        return QueryPool(c.width, c.feature or c.width, c.pool_heads or c.heads, rngs=rngs)
    return None


def without(x: Float[Array, "n t d"], start: int, count: int) -> Float[Array, "n m d"]:
    """Returns the tokens without `count` of them from `start` on."""
    return jnp.concatenate([x[:, :start], x[:, start + count :]], axis=1) if count else x


def rotary_angles(config: VisionConfig) -> Float[Array, "n h"]:
    """Returns the rotary angles of all tokens for one head, f32[tokens width/heads].

    CLS and registers have the angle 0. The centre (y, x) of a patch is multiplied by the d/4
    frequencies rope^(-4 i / d), where d is the width of a head. DINOv3's centres are in -2 pi to
    2 pi, EVA-02's are the patch's place in a grid with `rope_grid` places a side. The second half
    of the angles repeats the first.
    """
    c = config
    size = c.width // c.heads
    if c.rope_grid:
        centres = np.arange(c.grid) * (c.rope_grid / c.grid)
        frequencies = 1 / c.rope ** (4 * np.arange(size // 4) / size)
    else:
        centres = (np.arange(c.grid) + 0.5) / c.grid * 2 - 1
        frequencies = 2 * np.pi / c.rope ** (4 * np.arange(size // 4) / size)
    patches = np.stack(np.meshgrid(centres, centres, indexing="ij"), axis=-1).reshape(-1, 2)
    angles = (patches[:, :, None] * frequencies).reshape(len(patches), size // 2)
    angles = np.concatenate([np.zeros((c.prefix, size // 2)), angles])
    return jnp.asarray(np.tile(angles, 2), jnp.float32)
