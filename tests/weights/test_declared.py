"""Tests of configs with a wrong value in each place, and of variants that configs or names show."""

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from support.paths import GOLDEN

import lift_jax
from lift_jax.errors import UserError
from lift_jax.models import tree
from lift_jax.weights import load

WRONG = (None, "x", -1, 0, 1.5, [], [1, 2], {"a": 1})


def key_paths(config: dict, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yields the keys that lead to each value of a config, parts included."""
    for key, value in config.items():
        yield (*before, key)
        if isinstance(value, dict):
            yield from key_paths(value, (*before, key))


@pytest.mark.parametrize("name", [
    "clip_hf", "siglip_hf", "siglip2", "dinov2_hf", "dinov3", "hf_vit", "timm/timm_vit",
    "timm/timm_resnet", "timm/timm_eva02", "timm/timm_pe", "open_clip", "open_clip_rn",
    "open_clip_coca", "open_clip_pe",
])  # fmt: skip
def test_a_wrong_value_anywhere_is_a_users_mistake(name, tmp_path):
    folder = Path(shutil.copytree(GOLDEN / name, tmp_path / "model"))
    if name == "open_clip_rn":
        shutil.copyfile(GOLDEN / "torch" / "clip_rn.pth", folder / "open_clip_pytorch_model.bin")
    path = next(p for n in ("open_clip_config.json", "config.json") if (p := folder / n).exists())
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3})
    )
    refused = 0
    for file in (path, folder / "preprocessor_config.json"):
        right = json.loads(file.read_text())
        for keys in key_paths(right):
            for wrong in WRONG:
                config = copy.deepcopy(right)
                part = config
                for key in keys[:-1]:
                    part = part[key]
                part[keys[-1]] = wrong
                file.write_text(json.dumps(config))
                try:
                    load.sizes(folder)  # anything but a UserError fails the test
                except UserError as e:
                    refused += 1
                    assert str(folder) in str(e)
        file.write_text(json.dumps(right))
    load.sizes(folder)
    assert refused > 20


@pytest.mark.parametrize(("mean", "words"), [
    ([0.5, 0.5], "three numbers, of red"), ("0.5", "three numbers, of red"), (None, "three"),
])  # fmt: skip
def test_statistics_are_three_numbers(mean, words, tmp_path):
    folder = Path(shutil.copytree(GOLDEN / "clip_hf", tmp_path / "model"))
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": mean}))
    with pytest.raises(UserError, match=f"preprocessor_config.json image_mean is .*{words}"):
        lift_jax.load_backbone(folder)


@pytest.mark.parametrize("eps", ["small", 0, -1e-6, float("nan"), None])
def test_eps_is_a_number_above_0(eps):
    for name in ("clip_openai.safetensors", "timm_vit.safetensors"):
        with pytest.raises(UserError, match="eps is .*; expected a number above 0"):
            lift_jax.load_backbone(GOLDEN / name, eps=eps)


@pytest.mark.parametrize("prefix", ["vision_model.", ""])
@pytest.mark.parametrize(("name", "kind", "feature"), [
    ("siglip_hf", "siglip_vision_model", "image_features"),
    ("clip_hf", "clip_vision_model", "image_pooled"),
])  # fmt: skip
def test_an_image_tower_alone(name, kind, feature, prefix, golden, tmp_path):
    """transformers saves it with its prefix before version 5, and without since then."""
    config = json.loads((GOLDEN / name / "config.json").read_text())
    about = config["vision_config"] | {"model_type": kind}
    (tmp_path / "config.json").write_text(json.dumps(about))
    arrays = safetensors.numpy.load_file(GOLDEN / name / "model.safetensors")
    tower = {
        prefix + key.removeprefix("vision_model."): array
        for key, array in arrays.items()
        if key.startswith("vision_model.")
    }
    safetensors.numpy.save_file(tower, tmp_path / "model.safetensors")
    backbone = lift_jax.load_backbone(tmp_path)
    expected = golden(name)[feature]
    found = jax.jit(backbone.encode_image)(golden("clip_openai")["images"])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    assert backbone.text is None


def changed_vit(tmp_path: Path, change, arguments: dict) -> Path:
    """Returns a copy of the golden ViT of timm's hub, with other weights and more arguments."""
    folder = Path(shutil.copytree(GOLDEN / "timm" / "timm_vit", tmp_path / "vit"))
    arrays = safetensors.numpy.load_file(folder / "model.safetensors")
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    change(arrays)
    safetensors.numpy.save_file(arrays, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["model_args"] = config.get("model_args", {}) | arguments
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_layer_scale_of_timm(golden, tmp_path):
    """A branch that is halved and then doubled by its scale gives the features of before."""

    def scale(arrays):
        for name, array in [*arrays.items()]:
            for layer, scale in (("attn.proj", "ls1"), ("mlp.fc2", "ls2")):
                if f".{layer}." in name:
                    arrays[name] = array / 2
                    gamma = name.split(layer)[0] + f"{scale}.gamma"
                    arrays[gamma] = np.full(len(array), 2, np.float32)

    backbone = lift_jax.load_backbone(changed_vit(tmp_path, scale, {"init_values": 1e-5}))
    expected = golden("timm/timm_vit")["cls"]
    found = jax.jit(backbone.encode_image)(golden("clip_openai")["images"])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    _, leaves = tree.flatten(backbone)
    assert "visual/blocks/0/scale2" in leaves


@pytest.mark.slow
def test_a_vit_of_timm_without_qkv_bias(golden, tmp_path):
    """Without bias the features are those of a bias of 0. One block alone does not lack it."""
    images = golden("clip_openai")["images"]

    def zero(arrays):
        arrays |= {n: 0 * a for n, a in arrays.items() if n.endswith("qkv.bias")}

    def drop(arrays):
        for name in [name for name in arrays if name.endswith("qkv.bias")]:
            del arrays[name]

    def drop_one(arrays):
        del arrays["blocks.0.attn.qkv.bias"]

    expected = lift_jax.load_backbone(changed_vit(tmp_path / "0", zero, {})).encode_image(images)
    for i, args in enumerate(({"qkv_bias": False}, {})):
        without = lift_jax.load_backbone(changed_vit(tmp_path / f"1{i}", drop, args))
        np.testing.assert_array_equal(without.encode_image(images), expected)
    with pytest.raises(UserError, match=r"missing +blocks\.0\.attn\.qkv\.bias"):
        lift_jax.load_backbone(changed_vit(tmp_path / "2", drop_one, {}))


def test_the_causal_mask_of_an_archive_is_left_out(tmp_path):
    arrays = safetensors.numpy.load_file(GOLDEN / "clip_openai.safetensors")
    arrays["attn_mask"] = np.triu(np.full((77, 77), -np.inf, np.float32), 1)
    safetensors.numpy.save_file(arrays, tmp_path / "clip.safetensors")
    lift_jax.load_backbone(tmp_path / "clip.safetensors", heads=2, text_heads=2)


def test_what_openais_rule_tells_is_said(tmp_path):
    arrays = safetensors.numpy.load_file(GOLDEN / "clip_openai.safetensors")
    safetensors.numpy.save_file(arrays, tmp_path / "clip.safetensors")  # without metadata

    def notes(**sizes) -> str:
        return " ".join(lift_jax.load_backbone(tmp_path / "clip.safetensors", **sizes).config.notes)

    rule = "by OpenAI's rule: heads 2, text_heads 1, eps 1e-05, activation quick_gelu."
    assert notes().endswith(rule)
    assert notes(heads=2, eps=1e-5, activation="gelu").endswith("rule: text_heads 1.")
    assert not notes(heads=2, text_heads=2, eps=1e-5, activation="quick_gelu")
