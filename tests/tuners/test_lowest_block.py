"""Tests of the lowest tuned block: it is found for every tuner, and by every path."""

import jax.numpy as jnp
import pytest
from flax import nnx

from lift_jax.models.backbone import Classifier
from lift_jax.models.heads import CosineHead
from lift_jax.models.resnet import ResNet, ResNetConfig
from lift_jax.models.vit.config import VisionConfig
from lift_jax.models.vit.tower import VisionTransformer
from lift_jax.settings.groups.tuner import TunerSettings
from lift_jax.training import state
from lift_jax.tuners import attach, rules
from lift_jax.tuners.lowest_block import lowest_tuned_block

SIZES = {"resolution": 8, "patch": 4, "width": 8, "layers": 3, "heads": 2, "mlp": 16}
RESNET = ResNetConfig(16, 32, 4, (4, 8), (1, 1))


@pytest.fixture(scope="module")
def tower():
    return VisionTransformer(VisionConfig(**SIZES), rngs=nnx.Rngs(0))


def tuned_of(tower, names, **options):
    tower = nnx.clone(tower)
    attach.attach(tower, names, 5, TunerSettings(**options), rngs=nnx.Rngs(1))
    chosen = options.get("partial", 0), options.get("layers", "")
    resnet = isinstance(tower, ResNet)
    wanted = rules.trainable(names, len(tower.blocks), *chosen, resnet=resnet)
    model = Classifier(tower, CosineHead(jnp.ones((5, tower.width))))
    return state.split_trainable(model, wanted)[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [*attach.TUNERS, *(rule for rule in rules.PATH_RULES if rule != "bn"), "none"]
)
def test_the_lowest_tuned_block(name, tower):
    """The lowest tuned block of three is found for every tuner; without any it is 3."""
    names = () if name == "none" else (name,)
    for options, by_hand in (({}, 0), ({"partial": 1}, 2), ({"layers": "1,2"}, 1)):
        expected = by_hand if names else 3
        found = lowest_tuned_block(tower, tuned_of(tower, names, **options))
        assert found == expected, options


@pytest.mark.parametrize(("path", "k"), [
    ("head/weight", 3), ("head/text/blocks/0/tuners/lora/q/up", 3), ("head/image_proj", 3),
    ("visual/blocks/2/ln2/bias", 2), ("visual/blocks/1/q/kernel", 1), ("visual/ln_post/scale", 2),
    ("visual/pool/probe", 2), ("visual/positions", 0), ("visual/cls", 0), ("visual/registers", 0),
    ("visual/stem/linear/kernel", 0), ("visual/ln_pre/scale", 0),
])  # fmt: skip
def test_the_lowest_tuned_block_by_path(path, k, tower):
    assert lowest_tuned_block(tower, ["head/weight", path]) == k


@pytest.mark.parametrize(("names", "k"), [((), 2), (("ssf",), 0), (("bn",), 0), (("full",), 0)])
def test_the_lowest_tuned_block_of_a_resnet(names, k):
    tower = ResNet(RESNET, rngs=nnx.Rngs(0))
    assert lowest_tuned_block(tower, tuned_of(tower, names)) == k
