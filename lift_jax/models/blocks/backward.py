"""Backward passes that keep few arrays: LayerNorm, activations and attention on CPUs.

Autodiff keeps about 29 arrays of the size of a block's activations between its forward and backward
pass, these rules about 10; they compute the rest again. On CPUs, where a step waits for memory, a
training step is faster as well. The values are those of `formulas`, and a test holds the gradients
to autodiff's.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lift_jax.models.blocks import formulas

# `with lean(True)` (or False) traces programs with these rules (or by autodiff) on any backend; jit
# traces a function again where it differs.
lean = jax.make_user_context(default_value=None)


def is_lean() -> bool:
    """Returns True if these rules are used: on CPUs, unless `lean` is set.

    Their effect on GPUs and TPUs, which fuse these layers, has not been measured.
    """
    return jax.default_backend() == "cpu" if lean.value is None else lean.value


def again(pull: Array, kept: Array) -> Array:
    """Returns an array that was kept, as a value that depends on `pull`, the gradient that arrived.

    The compiler cannot merge what is computed from it with the same computation in the forward
    pass, whose results it would then keep. XLA of jax 0.10 drops optimization barriers on CPUs too
    early for that, hence the sum. Both arrays have the same first axis, that of the batch: each
    device needs its own rows alone.
    """
    zero = 0 * pull[(slice(None), *[slice(0, 1)] * (pull.ndim - 1))]  # kept by XLA: it may be NaN
    return kept + zero.astype(kept.dtype)


# --- LayerNorm ---


def layer_norm(
    x: Float[Array, "... d"], scale: Float[Array, " d"], bias: Float[Array, " d"], eps: float
) -> Float[Array, "... d"]:
    """Returns `formulas.layer_norm`, whose backward pass keeps x alone."""
    return (_layer_norm if is_lean() else formulas.layer_norm)(x, scale, bias, eps)


_layer_norm = jax.custom_vjp(formulas.layer_norm, nondiff_argnums=(3,))


def _layer_norm_forward(x: Array, scale: Array, bias: Array, eps: float) -> tuple:
    return formulas.layer_norm(x, scale, bias, eps), (x, scale, bias)


def _layer_norm_backward(eps: float, kept: tuple, pull: Array) -> tuple[Array, Array, Array]:
    x, scale, bias = kept
    x32 = again(pull, x.astype(jnp.float32))
    centred = x32 - x32.mean(-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + eps)
    y, g = centred * inverse, pull.astype(jnp.float32)
    rows = tuple(range(x.ndim - 1))
    of_scale, of_bias = (g * y).sum(rows), g.sum(rows)
    g = g * again(pull, scale.astype(jnp.float32))
    of_x = inverse * (g - g.mean(-1, keepdims=True) - y * (g * y).mean(-1, keepdims=True))
    return of_x.astype(x.dtype), of_scale.astype(scale.dtype), of_bias.astype(bias.dtype)


_layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


# --- activations and other cheap functions ---


def keeping_inputs(function: Callable[..., Array]) -> Callable[..., Array]:
    """Returns a function of an array and of weights whose backward pass keeps these alone.

    It computes the function again, which is worth it for a cheap one.
    """
    ruled = jax.custom_vjp(function)

    def backward(inputs: tuple, pull: Array) -> tuple:
        x, *weights = inputs
        return jax.vjp(function, again(pull, x), *weights)[1](pull)

    ruled.defvjp(lambda *inputs: (function(*inputs), inputs), backward)
    return lambda *inputs: (ruled if is_lean() else function)(*inputs)


# --- attention ---


def attend(
    q: Float[Array, "z n d"], k: Float[Array, "z m d"], v: Float[Array, "z m d"], causal: bool
) -> Float[Array, "z n d"]:
    """Returns `formulas.attend`, whose backward pass keeps q, k and v alone."""
    return (_attend if is_lean() else formulas.attend)(q, k, v, causal)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _attend(q: Array, k: Array, v: Array, causal: bool) -> Array:
    """Divides by the sum of the softmax after the product: then XLA's products are up to twice as
    fast with jax 0.10."""
    scores = formulas.scores(q, k, causal)
    weights = jnp.exp(scores - scores.max(-1, keepdims=True))
    # before the division, sums of float16 could exceed its range
    kind = jnp.float32 if v.dtype == jnp.float16 else v.dtype
    out = jnp.einsum("znm,zmd->znd", weights.astype(v.dtype), v, preferred_element_type=kind)
    return (out.astype(jnp.float32) / weights.sum(-1, keepdims=True)).astype(v.dtype)


def _attend_forward(q: Array, k: Array, v: Array, causal: bool) -> tuple:
    return _attend(q, k, v, causal), (q, k, v)


def _attend_backward(causal: bool, kept: tuple, pull: Array) -> tuple[Array, Array, Array]:
    q, k, v = (again(pull, array) for array in kept)
    weights = jax.nn.softmax(formulas.scores(q, k, causal), axis=-1)
    of_v = jnp.einsum("znm,znd->zmd", weights.astype(v.dtype), pull)
    of_weights = jnp.einsum("znd,zmd->znm", pull, v, preferred_element_type=jnp.float32)
    mean = (weights * of_weights).sum(-1, keepdims=True)
    of_scores = (weights * (of_weights - mean)).astype(q.dtype)
    of_q = jnp.einsum("znm,zmd->znd", of_scores, k)
    return of_q, jnp.einsum("znm,znd->zmd", of_scores, q), of_v


_attend.defvjp(_attend_forward, _attend_backward)
