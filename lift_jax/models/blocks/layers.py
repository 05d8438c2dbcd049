"""Layers that the towers share: linear, LayerNorm, attention, rotary positions, patch stem.

Each layer computes in the dtype of its input, which `precision` chooses; LayerNorm and softmax
compute in float32.
"""

import re
from collections.abc import Callable
from functools import cache
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from lift_jax.models.blocks import backward, formulas
from lift_jax.models.precision import HALVES

Normal = nnx.initializers.normal


class Linear(nnx.Module):
    """A linear layer, y = x @ kernel + bias, with kernel f32[inputs outputs]."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        rngs: nnx.Rngs,
        bias: bool = True,
        init: Callable | None = None,
        param: type[nnx.Param] = nnx.Param,
    ):
        init = init or Normal(inputs**-0.5)
        self.kernel = param(init(rngs.params(), (inputs, outputs), jnp.float32))
        self.bias = param(jnp.zeros(outputs, jnp.float32)) if bias else None

    def weights(self) -> tuple[Array, Array | None]:
        """Returns kernel and bias."""
        return self.kernel[...], None if self.bias is None else self.bias[...]

    def __call__(self, x: Float[Array, "... i"]) -> Float[Array, "... o"]:
        return affine(x, *self.weights())


def affine(
    x: Float[Array, "... i"], kernel: Float[Array, "i o"], bias: Float[Array, " o"] | None
) -> Float[Array, "... o"]:
    """Returns x @ kernel + bias in the dtype of x."""
    y = x @ kernel.astype(x.dtype)
    return y if bias is None else y + bias.astype(x.dtype)


class LayerNorm(nnx.Module):
    """A LayerNorm over the last axis. It computes in float32 and returns the dtype of its input."""

    def __init__(self, width: int, *, eps: float = 1e-5, param: type[nnx.Param] = nnx.Param):
        self.scale = param(jnp.ones(width, jnp.float32))
        self.bias = param(jnp.zeros(width, jnp.float32))
        self.eps = eps

    def weights(self) -> tuple[Array, Array]:
        """Returns scale and bias."""
        return self.scale[...], self.bias[...]

    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        return backward.layer_norm(x, *self.weights(), self.eps)


ACTIVATIONS = {
    name: backward.keeping_inputs(getattr(formulas, name))
    for name in ("quick_gelu", "gelu", "gelu_tanh", "silu")
}


def attention(
    q: Float[Array, "b n w"],
    k: Float[Array, "b m w"],
    v: Float[Array, "b m w"],
    heads: int,
    causal: bool = False,
) -> Float[Array, "b n w"]:
    """Returns multi-head softmax attention; with `causal` no token attends to those behind it.

    `causal` needs n = m. Heads are folded into the batch before the two matrix products: contiguous
    operands [b*heads n d] are up to twice as fast on CPUs as batched products over a strided head
    axis, and equally fast elsewhere.
    """
    b, n, width = q.shape
    d = width // heads
    if n > 1 and q.dtype in HALVES and d % 8 == 0 and d <= 128 and has_fused_attention():
        return fused_attention(q, k, v, heads, causal)

    def fold(x: Array) -> Array:
        x = x.reshape(b, x.shape[1], heads, d).transpose(0, 2, 1, 3)
        return x.reshape(b * heads, x.shape[2], d)

    out = backward.attend(fold(q * d**-0.5), fold(k), fold(v), causal)
    return out.reshape(b, heads, n, d).transpose(0, 2, 1, 3).reshape(b, n, width)


@cache
def has_fused_attention() -> bool:
    """Returns True on NVIDIA GPUs of compute capability 8 (Ampere) or newer."""
    capability = str(getattr(jax.local_devices()[0], "compute_capability", ""))
    return re.fullmatch(r"\d+\.\d+", capability) is not None and float(capability) >= 8


def fused_attention(
    q: Float[Array, "b n w"],
    k: Float[Array, "b m w"],
    v: Float[Array, "b m w"],
    heads: int,
    causal: bool = False,
    implementation: Literal["cudnn", "xla"] = "cudnn",
) -> Float[Array, "b n w"]:
    """Returns `attention` computed by cuDNN, which never writes the scores [b h n m] to memory.

    On an H100 a training step of ViT-B/16 takes 0.78 of the time and 0.62 of the memory.
    """
    b, width = len(q), q.shape[2]
    odd = q.shape[1] % 2 or k.shape[1] % 2

    def split(x: Array) -> Array:
        x = x.reshape(b, x.shape[1], heads, width // heads)
        # cuDNN can train with even lengths alone: an odd one gets a row that no token attends to
        return jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0)))

    def lengths(x: Array) -> Array | None:
        return jnp.full(b, x.shape[1], jnp.int32) if odd else None

    out = jax.nn.dot_product_attention(
        split(q), split(k), split(v), is_causal=causal, query_seq_lengths=lengths(q),
        key_value_seq_lengths=lengths(k), implementation=implementation,
    )  # fmt: skip
    return out[:, : q.shape[1]].reshape(q.shape)


def rotate(x: Float[Array, "b n w"], angles: Float[Array, "n d"]) -> Float[Array, "b n w"]:
    """Returns queries or keys with each head rotated by the angles of its tokens.

    This is DINOv3's convention of rotary positions: the i-th number of a head's first half and the
    i-th of its second half are one point of a plane, rotated by the i-th angle. `angles` repeats
    its first half in its second.
    """
    b, n, width = x.shape
    x32 = x.astype(jnp.float32).reshape(b, n, -1, angles.shape[1])
    first, second = jnp.split(x32, 2, axis=-1)
    turned = jnp.concatenate([-second, first], axis=-1)
    cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    return (x32 * cos + turned * sin).reshape(b, n, width).astype(x.dtype)


def block_border(x: Array) -> Array:
    """Returns x behind a barrier that keeps XLA's CPU compiler from fusing across blocks.

    The barrier acts in the backward pass as well. Without it each tuner's gradient computes the
    cotangent sum of all later blocks again: a training step of ViT-B/16 takes 1.2 to 1.35 times as
    long with jax 0.12 (with 0.10.2 no difference was resolved). On other backends there is no
    barrier.
    """
    return jax.lax.optimization_barrier(x) if jax.default_backend() == "cpu" else x


class PatchStem(nnx.Module):
    """The patch embedding: a strided convolution, written as reshape and matrix product.

    A convolution under vmap would make XLA gather the batch on every device; the matrix product
    stays sharded.
    """

    def __init__(self, patch: int, width: int, *, bias: bool, rngs: nnx.Rngs):
        self.patch = patch
        self.linear = Linear(patch * patch * 3, width, rngs=rngs, bias=bias)

    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b n d"]:
        b, h, w, c = images.shape
        p = self.patch
        x = images.reshape(b, h // p, p, w // p, p, c).transpose(0, 1, 3, 2, 4, 5)
        return self.linear(x.reshape(b, (h // p) * (w // p), p * p * c))
