"""Tests of heads: logits against the authors' and by hand, weights, precision, and the scale."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from lift_jax.errors import UserError
from lift_jax.models import tree
from lift_jax.models.heads import HEADS
from lift_jax.models.tunable import Tuned
from lift_jax.settings import parse

WEIGHT = jnp.array([[3.0, 4.0], [0.0, -2.0], [1.0, 0.0]])


@pytest.mark.parametrize(("kind", "key"), [
    ("cosine", "out_CosineClassifier"), ("linear", "out_LinearClassifier"),
    ("l2norm", "out_L2NormClassifier"), ("layernorm", "out_LayerNormClassifier"),
])  # fmt: skip
def test_logits_equal_the_reference(golden, kind, key):
    data = golden("heads")
    head = HEADS[kind](jnp.asarray(data["weight"]))
    if kind == "linear":
        head.bias[...] = jnp.asarray(data["bias"])
    logits = jax.jit(lambda features: head.classify(head.embed(features)))(data["features"])
    # The absolute term is for small logits, which are differences of products of up to 25.
    np.testing.assert_allclose(logits, data[key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("kind", "by_hand"), [
    ("cosine", [25 * 1.0, 25 * -0.8, 25 * 0.6]),
    ("linear", [50.5, -15.0, 5.0]),
    ("l2norm", [10.0, -8.0, 6.0]),
    ("layernorm", [0.2, -1.0, -1.0]),  # (6, 8) is (-1, 1)
])  # fmt: skip
def test_logits_by_hand(kind, by_hand):
    head = HEADS[kind](WEIGHT)
    if kind == "linear":
        head.bias[...] = jnp.array([0.5, 1.0, -1.0])
    logits = head.classify(head.embed(jnp.array([[6.0, 8.0]])))
    np.testing.assert_allclose(logits[0], by_hand, rtol=1e-6)


@pytest.mark.parametrize("kind", HEADS)
def test_logits_of_the_mean_embedding_are_the_mean_of_the_logits(kind):
    rng = np.random.default_rng(0)
    head = HEADS[kind](jnp.asarray(rng.normal(size=(7, 13)), jnp.float32))
    if kind == "linear":
        head.bias[...] = jnp.arange(7.0)
    crops = jnp.asarray(rng.normal(size=(5, 3, 13)), jnp.float32)
    found = head.classify(jnp.mean(jax.vmap(head.embed)(crops), axis=0))
    each = jnp.stack([head.classify(head.embed(crop)) for crop in crops])
    np.testing.assert_allclose(found, each.mean(axis=0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", HEADS)
def test_every_weight_is_tuned_float32_and_starts_as_given(kind):
    head = HEADS[kind](WEIGHT.astype(jnp.bfloat16))
    _, leaves = tree.flatten(head)
    assert leaves.keys() == ({"weight", "bias"} if kind == "linear" else {"weight"})
    assert all(isinstance(leaf, Tuned) and leaf.dtype == jnp.float32 for leaf in leaves.values())
    assert np.array_equal(leaves["weight"][...], WEIGHT)
    if kind == "linear":
        assert np.array_equal(leaves["bias"][...], np.zeros(3))


@pytest.mark.parametrize("kind", HEADS)
def test_extremes_are_finite_and_logits_float32(kind):
    """Takes bfloat16 features: some of length 0, constant ones and large ones."""
    graph, leaves = tree.flatten(HEADS[kind](WEIGHT))
    arrays = {path: leaf[...] for path, leaf in leaves.items()}
    features = jnp.array([[0.0, 0.0], [5.0, 5.0], [1e4, -1e4]], jnp.bfloat16)

    def total(arrays, features):
        head = tree.merge(graph, arrays)
        logits = head.classify(head.embed(features))
        assert logits.dtype == jnp.float32
        return logits.sum()

    value, grads = jax.value_and_grad(total, argnums=(0, 1))(arrays, features)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves((value, grads)))


def test_the_scale_belongs_to_cosine():
    config = base.get_config()
    for kind in HEADS:
        config.head.kind = kind
        parse(config)
    config.head.kind, config.head.scale = "linear", 30.0
    with pytest.raises(UserError, match="head.scale is 30.0, but head.kind is 'linear'"):
        parse(config)
