"""Tests of the backward passes that keep few arrays, against autodiff of the plain formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.towers import BLOCKS, close, differentiated, stirred, tuned_model

from lift_jax.models.blocks import backward, formulas
from lift_jax.models.blocks.layers import ACTIVATIONS
from lift_jax.tuners import adapter, attach
from lift_jax.tuners.rules import PATH_RULES


def drawn(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def both_ways(function, *inputs):
    """Returns values and gradients of all inputs, with the rules and by autodiff alone."""

    def loss(*inputs):
        value = function(*inputs)
        return (
            value.astype(jnp.float32) * jnp.cos(jnp.arange(value.size)).reshape(value.shape)
        ).sum(), value

    found = []
    both = jax.jit(jax.value_and_grad(loss, argnums=tuple(range(len(inputs))), has_aux=True))
    for lean in (True, False):
        with backward.lean(lean):
            (_, value), grads = both(*inputs)
            found.append((value, grads))
    return found


def hold(found, rtol=1e-5):
    (value, grads), (expected, expected_grads) = found
    close(value, expected, 1e-6)
    jax.tree.map(lambda a, b: close(a, b, rtol), grads, expected_grads)
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(grads))


def test_layer_norm():
    inputs = (3 * drawn(4, 7, 12) + 1, drawn(12, seed=1), drawn(12, seed=2))
    hold(both_ways(lambda *a: backward.layer_norm(*a, 1e-5), *inputs))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name):
    hold(both_ways(ACTIVATIONS[name], 4 * drawn(3, 50)))
    np.testing.assert_array_equal(ACTIVATIONS[name](drawn(9)), getattr(formulas, name)(drawn(9)))


@pytest.mark.parametrize(("n", "m", "causal"), [(6, 6, False), (6, 6, True), (1, 6, False)])
def test_attention(n, m, causal):
    inputs = (2 * drawn(3, n, 4), drawn(3, m, 4, seed=1), drawn(3, m, 4, seed=2))
    hold(both_ways(lambda *a: backward.attend(*a, causal), *inputs))


def test_attention_by_hand():
    """One query on two keys with equal scores: the mean of the values, half the gradient each."""
    q, k, v = jnp.zeros((1, 1, 2)), jnp.ones((1, 2, 2)), jnp.array([[[1.0, 2.0], [3.0, 6.0]]])
    with backward.lean(True):
        out, pull = jax.vjp(lambda *a: backward.attend(*a, False), q, k, v)
        of_q, of_k, of_v = pull(jnp.ones((1, 1, 2)))
    assert np.array_equal(out, [[[2, 4]]]) and np.array_equal(of_v, np.full((1, 2, 2), 0.5))
    # softmax moves by p (g - mean g) = 0.5 (3 - 6), 0.5 (9 - 6); both keys are (1, 1)
    assert np.array_equal(of_q, [[[0, 0]]]) and np.array_equal(of_k, np.zeros((1, 2, 2)))


def test_bottleneck():
    weights = [(drawn(12, seed=1), drawn(12, seed=2)), (drawn(12, 3, seed=3), drawn(3, seed=4))]
    weights += [(drawn(3, 12, seed=5), drawn(12, seed=6))]
    hold(both_ways(adapter.bottleneck, drawn(2, 5, 12), *weights, jnp.float32(0.7)))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision(dtype):
    inputs = [2 * drawn(3, 6, 4, seed=i).astype(dtype) for i in range(3)]
    found = both_ways(lambda *a: backward.attend(*a, False), *inputs)
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(found))
    as_float = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), found)
    jax.tree.map(lambda a, b: close(a, b, 0.03), *as_float)


NAMES = sorted({*attach.TUNERS, *PATH_RULES} - {"bn", "coop", "clip_adapter"})


@pytest.mark.parametrize("kind", ["vit", "text"])
@pytest.mark.parametrize("name", NAMES)
def test_every_tuner(name, kind):
    """The gradient of every tuned leaf, through a whole tower."""
    _, inputs, (graph, tuned, frozen) = tuned_model((name,), kind)
    tuned = stirred(tuned)
    found = []
    for lean in (True, False):
        with backward.lean(lean):
            found.append(differentiated(graph, tuned, frozen, inputs))
    (logits, grads), (expected, expected_grads) = found
    close(logits, expected, 1e-6)
    largest = max(np.abs(g).max() for g in expected_grads.values())
    for path, leaf in expected_grads.items():
        np.testing.assert_allclose(grads[path], leaf, rtol=1e-5, atol=1e-5 * largest)


def test_few_arrays_are_kept():
    """The program of a step holds at most 0.7 of what autodiff's holds between its passes."""
    _, images, (graph, tuned, frozen) = tuned_model(("adaptformer",), "vit", blocks=4 * BLOCKS)
    images, scratch = jnp.tile(images, (64, 1, 1, 1)), []
    for lean in (True, False):
        with backward.lean(lean):
            compiled = differentiated.lower(graph, tuned, frozen, images).compile()
        scratch.append(compiled.memory_analysis().temp_size_in_bytes)
    assert scratch[0] < 0.7 * scratch[1], scratch
