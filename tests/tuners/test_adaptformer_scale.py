"""Tests of AdaptFormer's scale as a number: its formula, its parameters, and its files."""

import importlib
import json

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file
from support.runs import train_and_test

from lift_jax.errors import UserError
from lift_jax.models import tree
from lift_jax.models.tunable import Site
from lift_jax.models.vit.config import VisionConfig
from lift_jax.models.vit.tower import VisionTransformer
from lift_jax.runs import restored
from lift_jax.runs.weights import export
from lift_jax.settings.groups.tuner import TunerSettings
from lift_jax.settings.parse import parse
from lift_jax.training.start.leaves import read_tuned
from lift_jax.training.state import split_trainable
from lift_jax.tuners import attach, rules
from lift_jax.tuners.adapter import AdaptFormer

SCALES = [f"blocks/{i}/tuners/adaptformer/scale" for i in range(2)]


def config_of(**changes):
    config = importlib.import_module("configs.demo").get_config("debug")
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config


def split(scale):
    visual = VisionTransformer(VisionConfig(16, 8, 12, 2, 2, 24), rngs=nnx.Rngs(0))
    settings = TunerSettings(dim=2, scale=scale)
    attach.attach(visual, ("adaptformer",), 10, settings, rngs=nnx.Rngs(0))
    return split_trainable(visual, rules.trainable(("adaptformer",), 2, prefix=""))


def test_the_number_multiplies_the_bottleneck():
    """With 0.25 the branch is a quarter of that of a learned scale, which starts at 1."""
    branches = []
    for scale in ("learned", "0.25"):
        tuner = AdaptFormer(Site(6, {}, 10, settings=TunerSettings(dim=3, scale=scale)),
                            rngs=nnx.Rngs(0))  # fmt: skip
        tuner.up.kernel[...] = jnp.ones((3, 6))
        x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 6)), jnp.float32)
        branches.append(tuner.mlp(x, jnp.zeros_like(x)))
    assert float(jnp.abs(branches[0]).max()) > 0.1
    np.testing.assert_array_equal(branches[1], 0.25 * branches[0])


def test_a_number_is_no_parameter():
    """All leaves are equal but the scales, which are frozen."""
    (_, learned, rest), (_, tuned, frozen) = split("learned"), split("0.1")
    assert learned.keys() - tuned.keys() == set(SCALES) == frozen.keys() - rest.keys()
    assert all(learned[path] == 1 and frozen[path] == np.float32(0.1) for path in SCALES)
    assert all(np.array_equal(leaf, learned[path]) for path, leaf in tuned.items())


@pytest.mark.parametrize(("changes", "words"), [
    ({"tuner__scale": "0"}, "tuner.scale is '0'; expected learned, or a positive number"),
    ({"tuner__scale": "-0.1"}, "tuner.scale is '-0.1'"),
    ({"tuner__scale": "nan"}, "tuner.scale is 'nan'"),
    ({"tuner__scale": "learnt"}, "tuner.scale is 'learnt'; expected learned"),
    ({"tuner__scale": "0.1", "tuner__name": "lora"}, "belongs to 'adaptformer'"),
    ({"text_tuner__scale": "0.1"}, "text_tuner.name is 'none'"),
])  # fmt: skip
def test_other_texts_and_other_tuners_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        parse(config_of(**changes))


def test_a_config_from_before_has_a_learned_scale():
    config = config_of()
    with config.unlocked():
        del config.tuner["scale"], config.text_tuner["scale"]
    assert parse(config).tuner.fixed_scale is None


def check_damaged_configs(run, to):
    """Checks that no scale is made up where config.json does not say it."""
    whole = (run / "config.json").read_text()
    for scale, words in ((None, "tuner.scale is 'None'"), ("learned", "holds no learned scale"),
                         (..., "does not hold the setting tuner.scale")):  # fmt: skip
        about = json.loads(whole)
        about["tuner"]["scale"] = scale
        if scale is ...:
            del about["tuner"]["scale"]
        (run / "config.json").write_text(json.dumps(about))
        with pytest.raises(UserError, match=words):
            export.export(run, to)
    (run / "config.json").write_text(whole)


@pytest.mark.slow
def test_a_run_with_a_number_predicts_and_is_exported_with_it(tmp_path):
    """The authors' file has the number in each block. It starts a run of that number again, and
    none of another."""
    config = config_of(tuner__scale="0.5")
    train_and_test(config, tmp_path / "run")
    tuned = export.read_tuned(tmp_path / "run")
    assert tuned and not any("adaptformer/scale" in path for path in tuned)
    _, leaves = tree.flatten(restored.load(tmp_path / "run").classifier)
    found = [float(leaf[...]) for p, leaf in leaves.items() if p.endswith("adaptformer/scale")]
    assert found and set(found) == {0.5}
    file = export.export(tmp_path / "run", tmp_path / "tuned.safetensors")
    scales = [array for name, array in load_file(file).items() if name.endswith("former.scale")]
    assert len(scales) == len(found) and all(array == 0.5 for array in scales)
    check_damaged_configs(tmp_path / "run", tmp_path / "other.safetensors")

    frozen = {p: jnp.float32(0.5) for p in leaves if p.endswith("adaptformer/scale")}
    again = read_tuned(str(file), "each", {p: jnp.asarray(a) for p, a in tuned.items()}, frozen)
    assert again.keys() == tuned.keys()
    assert all(np.array_equal(again[path], leaf) for path, leaf in tuned.items())
    other = dict.fromkeys(frozen, jnp.float32(0.1))
    with pytest.raises(UserError, match=r"has the scale 0.5 .* tuner.scale is 0.1 .*learned"):
        read_tuned(str(file), "each", {p: jnp.asarray(a) for p, a in tuned.items()}, other)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["tuner"]["scale"] == "0.5"
