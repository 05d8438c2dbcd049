"""Tests of the precisions of towers: what they cost, and that no tuner leaves them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lift_jax.models import tree
from lift_jax.models.precision import FLOAT32, Precision
from lift_jax.models.resnet import ResNet, ResNetConfig
from lift_jax.models.text import TextConfig, TextTransformer
from lift_jax.models.vit.config import VisionConfig
from lift_jax.models.vit.tower import VisionTransformer
from lift_jax.training.placement import kept_type
from lift_jax.tuners.attach import TUNERS, attach
from lift_jax.tuners.rules import FOR_RESNETS, PATH_RULES, trainable

MIXED = Precision.of("bfloat16", "float32")
FLOAT16 = Precision.of("float16", "float32")
IMAGES = jax.random.normal(jax.random.key(1), (2, 16, 16, 3))
TOKENS = jnp.array([[1, 4, 5, 9, 0], [1, 3, 9, 0, 0]])


def vit(layers=1, **sizes):
    return VisionTransformer(VisionConfig(16, 8, 32, layers, 2, 64, **sizes), rngs=nnx.Rngs(0))


TOWERS = {
    "clip": (vit, IMAGES),
    "siglip": (lambda: vit(pool="map", ln_pre=False, stem_bias=True), IMAGES),
    "dino": (lambda: vit(rope=100.0, registers=2, layer_scale=True, gated=True), IMAGES),
    "text": (
        lambda: TextTransformer(TextConfig(10, 5, 32, 1, 2, 64, eot=9), rngs=nnx.Rngs(0)), TOKENS
    ),
    "siglip text": (
        lambda: TextTransformer(TextConfig(10, 5, 32, 1, 2, 64, pool="last"), rngs=nnx.Rngs(0)),
        TOKENS,
    ),
    "clip resnet": (lambda: ResNet(ResNetConfig(16, 32, 8, (4, 8), (1, 1), 2), rngs=nnx.Rngs(0)),
                    IMAGES),
    "resnet": (lambda: ResNet(ResNetConfig(16, 32, 8, (4, 8), (1, 1)), rngs=nnx.Rngs(0)), IMAGES),
}  # fmt: skip
CASES = [
    *(("clip", name) for name in (*TUNERS, *PATH_RULES) if name != "bn"),
    *(("dino", name) for name in ("adaptformer", "aft", "full")),
    *((kind, name) for kind in ("siglip", "text", "siglip text") for name in ("adapter", "full")),
    *((kind, name) for kind in ("clip resnet", "resnet") for name in FOR_RESNETS),
]


def split(tower, precision, name=""):
    """Returns the forward pass, the tuned leaves and the frozen ones in their precision."""
    if precision.mixed:
        tower.precision = precision
    is_resnet = isinstance(tower, ResNet)
    chosen = trainable([name], len(tower.blocks), resnet=is_resnet)
    graph, state = nnx.split(tower)
    tuned, frozen = {}, {}
    for path, leaf in nnx.to_flat_state(state):
        key, value = "/".join(map(str, path)), leaf[...]
        if chosen(("visual", *path), leaf):
            tuned[key] = value
        else:
            frozen[key] = value.astype(kept_type(f"visual/{key}", value.dtype, precision))
    return lambda tuned, frozen, x: tree.merge(graph, tuned | frozen)(x), tuned, frozen


def error(precision, tower, inputs):
    """Returns the error of the features to float32's, relative to their size (rms)."""
    found = []
    for own in (FLOAT32, precision):
        forward, _, frozen = split(tower(), own)
        found.append(np.asarray(forward({}, frozen, inputs), np.float64))
    wanted, found = found
    return np.sqrt(np.square(found - wanted).mean() / np.square(wanted).mean())


@pytest.mark.parametrize(("precision", "same", "bound"), [
    (MIXED, Precision.of("bfloat16", "bfloat16"), 4e-3),
    (FLOAT16, Precision.of("float16", "float16"), 8e-4),
], ids=["bfloat16", "float16"])  # fmt: skip
def test_the_residual_stream_in_float32_bounds_the_error(precision, same, bound):
    """A stream in the type of products does not keep the bound."""

    def deep():
        return vit(layers=6)

    assert error(precision, deep, IMAGES) < bound < error(same, deep, IMAGES)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_no_tuner_leaves_the_precision(kind, name):
    """All matrix products are float16's, forward and backward; stream and gradients are float32."""
    tower, inputs = TOWERS[kind]
    tower = tower()
    attach(tower, [name], 5, rngs=nnx.Rngs(1))
    forward, tuned, frozen = split(tower, FLOAT16, name)
    assert tuned

    def total(tuned, frozen, inputs):
        features = forward(tuned, frozen, inputs)
        assert features.dtype == jnp.float32 or kind == "siglip text"  # ends in a product
        return features.astype(jnp.float32).sum()

    gradient = jax.grad(total)
    kinds = product_types(jax.make_jaxpr(gradient)(tuned, frozen, inputs).jaxpr)
    assert kinds == {jnp.dtype("float16")}
    grads = jax.eval_shape(gradient, tuned, frozen, inputs)
    assert all(g.dtype == jnp.float32 for g in grads.values())


def product_types(jaxpr):
    """Returns the types of the operands of all matrix products and convolutions."""
    found = set()
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in ("dot_general", "conv_general_dilated"):
            found |= {var.aval.dtype for var in eqn.invars}
        for param in jax.tree.leaves(eqn.params, is_leaf=lambda p: hasattr(p, "eqns")):
            inner = getattr(param, "jaxpr", param)
            if hasattr(inner, "eqns"):
                found |= product_types(inner)
    return found
