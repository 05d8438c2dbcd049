"""Small towers with made-up weights, with tuners and their gradients."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lift_jax.models import tree
from lift_jax.models.backbone import Classifier
from lift_jax.models.heads import CosineHead
from lift_jax.models.resnet import ResNet, ResNetConfig
from lift_jax.models.text import TextConfig, TextTransformer
from lift_jax.models.vit.config import VisionConfig
from lift_jax.models.vit.tower import VisionTransformer
from lift_jax.settings.groups.tuner import TunerSettings
from lift_jax.training import state
from lift_jax.tuners import attach, rules


def close(found, expected, rtol=1e-5):
    """Asserts equality up to rtol times the largest expected magnitude.

    A float32 sum is not more precise than that.
    """
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol * np.abs(expected).max())


def run(model, inputs):
    """Returns the output of a model, compiled as a whole: faster than operation by operation."""
    graph, leaves = tree.flatten(model)
    arrays = {path: leaf[...] for path, leaf in leaves.items()}
    forward = jax.jit(lambda a, x: tree.merge(graph, a)(x))
    return forward(arrays, inputs)


class Texts(nnx.Module):
    """A classifier of texts: a text tower and a head."""

    def __init__(self, text, head):
        self.text, self.head = text, head

    def __call__(self, tokens):
        return self.head.classify(self.head.embed(self.text(tokens)))


CLASSES, WIDTH, HIDDEN, BLOCKS = 5, 12, 20, 2
CLIP_RESNET = ResNetConfig(32, WIDTH, stem=4, channels=(3, 4), layers=(2, 1), heads=4)
VIT = VisionConfig(16, 8, WIDTH, BLOCKS, 2, HIDDEN)
POOLED = {  # other ways from the tokens to the feature
    "map": replace(VIT, pool="map", registers=2, positioned="all"),
    "avg": replace(VIT, pool="avg", last_norm="after"),
    "avg_class": replace(VIT, pool="avg", class_token=True, registers=2, positioned="none"),
    "pair": replace(VIT, pool="pair", registers=1, positioned="all"),
    "query": replace(VIT, pool="query", class_token=True, last_norm="after", pool_heads=3),
}
WORDS = TextConfig(23, 7, WIDTH, BLOCKS, 2, HIDDEN, eot=22)


def filled(build):
    """Returns the module that `build` makes, with made-up weights; its initialisers do not run."""
    graph, leaves = tree.flatten(nnx.eval_shape(build))
    rng, arrays = np.random.default_rng(0), {}
    for path, leaf in leaves.items():
        noise = rng.normal(size=leaf.shape).astype(np.float32)
        positive = path.endswith(("scale", "var"))
        arrays[path] = jnp.asarray(1 + 0.1 * np.abs(noise) if positive else 0.3 * noise)
    return tree.merge(graph, arrays)


def new(kind, blocks=BLOCKS):
    """Returns a classifier with made-up weights, its tower, and three inputs."""
    rng = np.random.default_rng(1)
    head = CosineHead(jnp.asarray(rng.normal(size=(CLASSES, WIDTH)), jnp.float32))
    if kind == "text":
        tokens = rng.integers(0, 22, (3, 7))
        tokens[np.arange(3), [3, 6, 4]] = 22
        tower = filled(lambda: TextTransformer(replace(WORDS, layers=blocks), rngs=nnx.Rngs(0)))
        return Texts(tower, head), tower, jnp.asarray(tokens)
    build, sizes = (
        (ResNet, CLIP_RESNET)
        if kind == "resnet"
        else (VisionTransformer, replace(POOLED.get(kind, VIT), layers=blocks))
    )
    tower = filled(lambda: build(sizes, rngs=nnx.Rngs(0)))
    images = rng.normal(size=(3, sizes.resolution, sizes.resolution, 3))
    return Classifier(tower, head), tower, jnp.asarray(images, jnp.float32)


SETTINGS = {"dim": 3, "prompts": 2, "ratio": 0.1}


def tuned_model(names, kind, blocks=BLOCKS, **settings):
    """Returns a classifier with tuners, its inputs, and its split (graph, tuned, frozen)."""
    model, tower, inputs = new(kind, blocks)
    tuner = TunerSettings(**(SETTINGS | settings))
    attach.attach(tower, names, CLASSES, tuner, rngs=nnx.Rngs(1))
    is_trainable = rules.trainable(
        names, len(tower.blocks), tuner.partial, tuner.layers,
        prefix="text" if kind == "text" else "visual", resnet=kind == "resnet", stem=tuner.stem,
    )  # fmt: skip
    return model, inputs, state.split_trainable(model, is_trainable)


def stirred(tuned, size=0.1):
    """Returns tuned leaves with noise added to those of tuners."""
    rng = np.random.default_rng(2)
    return {
        path: leaf + size * rng.normal(size=leaf.shape).astype(np.float32)
        if "/tuners/" in path
        else leaf
        for path, leaf in sorted(tuned.items())
    }


@partial(jax.jit, static_argnums=0)
def differentiated(graph, tuned, frozen, inputs):
    """Returns the logits, and the gradient of every tuned leaf."""

    def loss(tuned):
        logits = tree.merge(graph, tuned | frozen)(inputs)
        return -jax.nn.log_softmax(logits)[:, 0].mean(), logits

    (_, logits), grads = jax.value_and_grad(loss, has_aux=True)(tuned)
    return logits, grads
