"""Losses against stored values and gradients of the reference, and their conduct on padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lift_jax import losses
from lift_jax.errors import UserError

# The reference's name, ours, options, and which rows: all, the logits times four, the first alone.
CASES = [
    *[(key, key.lower(), {}, rows) for key in ("CE", "BS", "LA") for rows in ("", "big_", "one_")],
    ("LA_tau15", "la", {"tau": 1.5}, ""),
]


@pytest.mark.parametrize("key, name, options, rows", CASES)
def test_value_and_gradient_equal_the_reference(golden, key, name, options, rows):
    data = golden("losses")
    logits, labels = data["logits"], data["labels"]
    if rows == "big_":
        logits = np.float16(logits * 4).astype(np.float32)
    if rows == "one_":
        logits, labels = logits[:1], labels[:1]
    loss = losses.make(name, data["cls_num_list"], **options)
    value, gradient = jax.jit(jax.value_and_grad(loss))(logits, labels)
    assert value.dtype == gradient.dtype == jnp.float32
    np.testing.assert_allclose(value, data[f"{rows}loss_{key}"], rtol=1e-5)
    # The absolute term is for entries 1e6 below the largest: each is softmax minus one-hot.
    np.testing.assert_allclose(gradient, data[f"{rows}grad_{key}"], rtol=1e-5, atol=1e-9)


def test_a_value_by_hand():
    # Equal logits: the softmax of log(pi) is pi itself.
    loss = losses.make("la", [6, 3, 1])
    value = loss(jnp.zeros((2, 3)), jnp.array([0, 2]))
    np.testing.assert_allclose(value, -(np.log(0.6) + np.log(0.1)) / 2, rtol=1e-6)
    # tau 2: pi squared, normalised: 36, 9, 1 of 46.
    value = losses.make("la", [6, 3, 1], tau=2.0)(jnp.zeros((1, 3)), jnp.array([1]))
    np.testing.assert_allclose(value, -np.log(9 / 46), rtol=1e-6)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_padding_reaches_neither_value_nor_gradient(name):
    rng = np.random.default_rng(3)
    graded = jax.jit(jax.value_and_grad(losses.make(name, [97, 13, 5])))
    real = np.float32(rng.normal(size=(7, 3)))
    labels = np.int32(rng.integers(0, 3, 7))
    want = graded(real, labels)
    mask = np.arange(9) < 7
    for garbage in (np.nan, np.inf, 1e30):
        logits = np.concatenate([real, np.full((2, 3), garbage, np.float32)])
        value, gradient = graded(logits, np.append(labels, np.int32([-1, 10**6])), mask)
        np.testing.assert_allclose(value, want[0], rtol=1e-6)
        np.testing.assert_allclose(gradient[:7], want[1], rtol=1e-6)
        assert not np.any(gradient[7:])


@pytest.mark.parametrize("name", losses.LOSSES)
def test_a_batch_without_rows_costs_nothing(name):
    loss = losses.make(name, [3, 2])
    value, gradient = jax.jit(jax.value_and_grad(loss))(
        np.full((5, 2), np.nan, np.float32), np.zeros(5, np.int32), np.zeros(5, bool)
    )
    assert value == 0 and not np.any(gradient)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_micro_batches_add_up_to_the_whole(name):
    rng = np.random.default_rng(5)
    loss = losses.make(name, [41, 11, 3, 2, 1])
    logits = jnp.asarray(rng.normal(size=(11, 5)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 5, 11), jnp.int32)
    mask = jnp.asarray(rng.random(11) < 0.7)

    def accumulated(logits):
        parts = [loss.terms(logits[a:b], labels[a:b], mask[a:b]) for a, b in [(0, 4), (4, 11)]]
        return sum(p[0] for p in parts) / sum(p[1] for p in parts)

    want = jax.jit(jax.value_and_grad(loss))(logits, labels, mask)
    got = jax.jit(jax.value_and_grad(accumulated))(logits)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-9), got, want)
    denominator = jax.jit(jax.grad(lambda z: loss.terms(z, labels, mask)[1]))(logits)
    assert not np.any(denominator)


def test_low_precision_logits_are_computed_in_float32():
    loss = losses.make("la", [5, 3])
    logits = jnp.array([[2.5, -1.25]], jnp.bfloat16)  # exact in bfloat16
    labels = jnp.array([1])
    value = jax.jit(loss)(logits, labels)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, loss(logits.astype(jnp.float32), labels), rtol=1e-6)


def test_an_empty_class_counts_as_the_smallest():
    logits, labels = jnp.array([[0.5, -1.0, 2.0]]), jnp.array([1])
    value = losses.make("la", [8, 0, 2])(logits, labels)
    assert np.isfinite(value)
    np.testing.assert_allclose(value, losses.make("la", [8, 2, 2])(logits, labels), rtol=1e-6)


def test_mistakes_are_named():
    with pytest.raises(UserError, match="Unknown loss .*'las'.*Did you mean 'la'"):
        losses.make("las", [1, 2])
    with pytest.raises(UserError, match="'la' has no option 'tua': it takes tau"):
        losses.make("la", [1, 2], tua=1.0)
    with pytest.raises(UserError, match="'bs' has no option 'tau': it takes no options"):
        losses.make("bs", [1, 2], tau=1.0)
    for counts in ([], [0, 0], [3, -1], [[1, 2]], [1.0, float("nan")]):
        with pytest.raises(UserError, match="training counts"):
            losses.make("la", counts)
    with pytest.raises(ValueError, match="logits of 4 classes, counts of 2"):
        losses.make("la", [1, 2])(jnp.zeros((1, 4)), jnp.array([0]))
