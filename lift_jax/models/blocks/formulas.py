"""The plain formulas of LayerNorm, activations and softmax attention, which autodiff can take."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def layer_norm(
    x: Float[Array, "... d"], scale: Float[Array, " d"], bias: Float[Array, " d"], eps: float
) -> Float[Array, "... d"]:
    """Returns a LayerNorm over the last axis, computed in float32, in the dtype of x."""
    x32 = x.astype(jnp.float32)
    centred = x32 - x32.mean(-1, keepdims=True)
    variance = jnp.square(centred).mean(-1, keepdims=True)
    y = centred * jax.lax.rsqrt(variance + eps)
    return (y * scale.astype(jnp.float32) + bias.astype(jnp.float32)).astype(x.dtype)


def quick_gelu(x: Array) -> Array:
    """Returns OpenAI's approximation of GELU, x * sigmoid(1.702 x)."""
    return x * jax.nn.sigmoid(1.702 * x)


def gelu(x: Array) -> Array:
    """Returns the exact (erf) GELU."""
    return jax.nn.gelu(x, approximate=False)


def gelu_tanh(x: Array) -> Array:
    """Returns the approximation of GELU by tanh."""
    return jax.nn.gelu(x, approximate=True)


def silu(x: Array) -> Array:
    """Returns x * sigmoid(x)."""
    return jax.nn.silu(x)


def attend(
    q: Float[Array, "z n d"], k: Float[Array, "z m d"], v: Float[Array, "z m d"], causal: bool
) -> Float[Array, "z n d"]:
    """Returns softmax(q k^T) v; with `causal` no query attends to keys behind it.

    Scores and softmax are float32, the products have the dtype of the operands.
    """
    weights = jax.nn.softmax(scores(q, k, causal), axis=-1).astype(v.dtype)
    return jnp.einsum("znm,zmd->znd", weights, v)


def scores(
    q: Float[Array, "z n d"], k: Float[Array, "z m d"], causal: bool
) -> Float[Array, "z n m"]:
    """Returns q k^T in float32, -inf where `causal` forbids to attend."""
    found = jnp.einsum("znd,zmd->znm", q, k, preferred_element_type=jnp.float32)
    return jnp.where(jnp.tri(*found.shape[1:], dtype=bool), found, -jnp.inf) if causal else found
