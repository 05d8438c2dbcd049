"""Tests of the ways from a ViT's tokens to its feature: by hand, and with prompts among them."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support.towers import CLASSES, POOLED, VIT, close, filled, run

from lift_jax.models import tree
from lift_jax.models.vit.tower import VisionTransformer
from lift_jax.settings.groups.tuner import TunerSettings
from lift_jax.tuners import attach
from lift_jax.weights import native
from lift_jax.weights.load import DEBUG

IMAGES = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)


def tower_of(config):
    return filled(lambda: VisionTransformer(config, rngs=nnx.Rngs(0)))


def by_hand(tower, x):
    """Returns the feature of tokens, class token and registers first, without any prompt."""
    c, norm = tower.config, tower.ln_post
    x = norm(x) if c.last_norm == "before" else x
    patches = x[:, len(x[0]) - c.grid**2 :]
    pooled = {
        "avg": lambda: patches.mean(axis=1),
        "pair": lambda: (x[:, 0] + x[:, 1]) / 2,
        "map": lambda: tower.pool(patches, x.dtype),
        "query": lambda: tower.pool(x, x.dtype),
    }[c.pool]()
    return norm(pooled) if c.last_norm == "after" else pooled


@pytest.mark.parametrize("kind", POOLED)
def test_features_by_hand(kind):
    tower = tower_of(POOLED[kind])
    x = nnx.jit(lambda tower: tower.lower(IMAGES, 1))(tower)
    assert x.shape[1] == 4 + tower.config.prefix
    expected = nnx.jit(lambda tower, x: by_hand(tower, tower.blocks[1](x)))(tower, x)
    close(run(tower, IMAGES), expected)


@pytest.mark.parametrize("place", ["start", "end"])
@pytest.mark.parametrize("kind", POOLED)
def test_prompts_are_no_patches(kind, place):
    """Without attention between tokens, prompts reach the feature by the pooling alone."""
    tower = tower_of(POOLED[kind])
    for block in tower.blocks:
        block.out.kernel[...] *= 0
    expected = run(tower, IMAGES)
    settings = TunerSettings(prompts=3, place=place)
    attach.attach(tower, ("vpt_deep",), CLASSES, settings, rngs=nnx.Rngs(0))
    same = np.allclose(run(tower, IMAGES), expected, atol=1e-5)
    assert same == (kind not in ("map", "query"))  # whose attention reads prompts too


def test_the_class_token_alone_leaves_the_last_block_only_where_it_is_the_feature(monkeypatch):
    seen = []
    for config in (VIT, *POOLED.values()):
        tower = tower_of(config)
        tower._feature = lambda x, prompts: seen.append(x.shape[1]) or x
        jax.eval_shape(tower, IMAGES)
    assert seen == [1, *(4 + config.prefix for config in POOLED.values())]


@pytest.mark.parametrize(("config", "rows"), [
    (VIT, 5),
    (replace(VIT, positioned="none"), 4),
    (replace(VIT, registers=3), 5),
    (replace(VIT, registers=3, positioned="all"), 8),
    (replace(VIT, registers=3, positioned="none"), 4),
    (replace(VIT, pool="avg", registers=2), 4),
    (replace(VIT, pool="avg", registers=2, positioned="all"), 6),
])  # fmt: skip
def test_which_tokens_have_positions(config, rows):
    tower = tower_of(replace(config, ln_pre=False))
    assert tower.positions.shape == (rows, 12)
    before = [p[...].reshape(-1, 12) for p in (tower.cls, tower.registers) if p is not None]
    before = jnp.concatenate([*before, jnp.zeros((0, 12))])
    placed = rows - 4
    expected = jnp.concatenate([before[:placed] + tower.positions[:placed], before[placed:]])
    x = tower.lower(IMAGES, 0)
    for row in x[:, : config.prefix]:
        close(row, expected) if len(expected) else None
    close(x[:, config.prefix :], tower.stem(jnp.asarray(IMAGES)) + tower.positions[placed:])


def test_sizes_that_came_later_leave_fingerprints_as_they_were():
    """The values were computed before there were such sizes."""
    sums = {"visual/cls": "00000001", "text/tokens": "00000002", "image_proj": "00000003"}
    assert native.fingerprint(DEBUG, sums).startswith("ba330c764c5aa27e2a7dde20")
    assert native.fingerprint(DEBUG, sums, texts=True).startswith("663db5d59f794e715f9138fd")
    changed = replace(DEBUG, vision=replace(DEBUG.vision, positioned="none"))
    assert native.fingerprint(changed, sums) != native.fingerprint(DEBUG, sums)


def test_a_tower_without_a_last_norm():
    tower = tower_of(replace(VIT, last_norm="none"))
    _, leaves = tree.flatten(tower)
    assert not any("ln_post" in path for path in leaves)
    expected = nnx.jit(lambda tower: tower.blocks[1](tower.lower(IMAGES, 1))[:, 0])(tower)
    close(run(tower, IMAGES), expected)
