"""Tests of Hugging Face's ViT, DINOv2 and DINOv3 against golden features, and of wrong files."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from support.paths import GOLDEN
from support.towers import close

import lift_jax
from lift_jax.errors import UserError
from lift_jax.models.vit.rotary import rotary_angles
from lift_jax.weights import load, rename
from lift_jax.weights.files.source import Source, open_source
from lift_jax.weights.formats import vits

NAMES = [
    "hf_vit", "hf_vit_base", "dinov2_hf", "dinov2_swiglu", "dinov2_registers", "dinov3",
    "dinov3_gated",
]  # fmt: skip


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def copy(tmp_path):
    """Returns a function that copies a golden folder and changes its arrays and settings."""

    def make(name: str, arrays=lambda a: None, config=lambda c: None) -> Path:
        folder = shutil.copytree(GOLDEN / name, tmp_path / "copy", dirs_exist_ok=True)
        stored = safetensors.numpy.load_file(folder / "model.safetensors")
        settings = json.loads((folder / "config.json").read_text())
        arrays(stored)
        config(settings)
        safetensors.numpy.save_file(stored, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(settings))
        return folder

    return make


def features(folder, images, **sizes):
    backbone = lift_jax.load_backbone(folder, **sizes)
    return jax.jit(lambda images: backbone.encode_image(images))(images)


@pytest.mark.parametrize("name", NAMES)
def test_features(golden, name):
    close(features(GOLDEN / name, golden("clip_openai")["images"]), golden(name)["cls"])


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_features_at_another_resolution(golden, name):
    expected = golden("dinov2_hf_48" if name == "dinov2_hf" else name)
    images = np.pad(golden("clip_openai")["images"], ((0, 0), (0, 16), (0, 16), (0, 0)), "wrap")
    close(features(GOLDEN / name, images, resolution=48), expected["cls_48"])
    images = images[:, :24, :24]
    close(features(GOLDEN / name, images, resolution=24), expected["cls_24"])


@pytest.mark.parametrize("name", ["dinov3", "dinov3_gated"])
def test_rotary_angles(golden, name):
    config = vits.read_config(open_source(GOLDEN / name)).vision
    angles = rotary_angles(config)
    assert not angles[: 1 + config.registers].any()
    close(np.cos(angles[1 + config.registers :]), golden(name)["rope_cos"])
    close(np.sin(angles[1 + config.registers :]), golden(name)["rope_sin"])


def test_what_stands_on_the_tower_is_left_out_and_said():
    def left_out(name):
        return lift_jax.load_backbone(GOLDEN / name).config.notes

    assert "classifier.bias, classifier.weight" in str(left_out("hf_vit"))
    assert "pooler.dense.weight" in str(left_out("hf_vit_base"))
    assert "embeddings.mask_token" in str(left_out("dinov2_registers"))


@pytest.mark.parametrize("name", ["dinov2_swiglu", "dinov2_registers"])
def test_a_classifier_on_dinov2(golden, copy, name):
    def classifier(arrays):
        kind = "dinov2" if name == "dinov2_swiglu" else "dinov2_with_registers"
        for key in list(arrays):
            arrays[f"{kind}.{key}"] = arrays.pop(key)
        arrays["classifier.weight"] = np.ones((5, 64), np.float16)

    found = features(copy(name, classifier), golden("clip_openai")["images"])
    close(found, golden(name)["cls"])


def test_mae(golden, copy):
    def decoder(arrays):
        arrays["decoder.mask_token"] = arrays["decoder.decoder_pos_embed"] = np.ones((1, 1, 32))

    folder = copy("hf_vit", decoder, lambda c: c.update(model_type="vit_mae"))
    (folder / "preprocessor_config.json").unlink()
    close(features(folder, golden("clip_openai")["images"]), golden("hf_vit")["cls"])
    assert vits.read_config(open_source(folder)).vision.mean == (0.485, 0.456, 0.406)


def test_no_registers_are_an_empty_array(copy):
    def empty(arrays):
        arrays["embeddings.register_tokens"] = np.zeros((1, 0, 32), np.float16)

    without = {"num_register_tokens": 0}
    folder = copy("dinov3", empty, lambda c: c.update(without))
    assert lift_jax.load_backbone(folder).visual.registers is None
    with pytest.raises(UserError, match=r"num_register_tokens is 0; .* \(1, 3, 32\)"):
        lift_jax.load_backbone(copy("dinov3", config=lambda c: c.update(without)))
    folder = copy("dinov2_registers", config=lambda c: c.update(model_type="dinov2"))
    with pytest.raises(UserError, match="num_register_tokens is None"):
        lift_jax.load_backbone(folder)


@pytest.mark.parametrize(("name", "kernel", "expected", "found"), [
    ("hf_vit", "intermediate.dense.weight", "(56, 32)", "(32, 56)"),
    ("hf_vit_base", "output.dense.weight", "(32, 48)", "(48, 32)"),
    ("dinov2_hf", "mlp.fc1.weight", "(96, 48)", "(48, 96)"),
    ("dinov2_swiglu", "mlp.weights_in.weight", "(96, 32)", "(32, 96)"),
    ("dinov2_registers", "mlp.fc2.weight", "(32, 64)", "(64, 32)"),
    ("dinov3", "mlp.up_proj.weight", "(72, 32)", "(32, 72)"),
    ("dinov3_gated", "mlp.gate_proj.weight", "(40, 32)", "(32, 40)"),
])  # fmt: skip
def test_wrong_weights_are_named_all_together(copy, name, kernel, expected, found):
    def change(arrays):
        wrong = next(key for key in arrays if key.endswith(f"layer.1.{kernel}"))
        arrays[wrong] = np.ascontiguousarray(arrays[wrong].T)
        cls = next(key for key in arrays if key.endswith("cls_token"))
        arrays[f"{cls}s"] = arrays.pop(cls)
        arrays[next(key for key in arrays if key.endswith("norm.bias"))][3] = np.nan

    with pytest.raises(UserError) as error:
        lift_jax.load_backbone(copy(name, change))
    for words in (
        f"{kernel}: expected {expected}, found {found}", "missing     ", "cls_token (near: ",
        "unexpected  ", "cls_tokens", "not finite  ", "norm.bias",
    ):  # fmt: skip
        assert words in str(error.value)


@pytest.mark.parametrize(("name", "change", "words"), [
    ("hf_vit", {"num_channels": 1}, "num_channels is 1; expected 3"),
    ("hf_vit", {"image_size": [32, 48]}, "image_size is .32, 48."),
    ("dinov3", {"patch_size": [8, 16]}, "patch_size is .8, 16."),
    ("hf_vit", {"hidden_act": "relu"}, "hidden_act is 'relu'; expected one of .*gelu_new"),
    ("dinov2_hf", {"num_attention_heads": 5}, "hidden_size is 48; expected a multiple of 1 x 5"),
    ("dinov3", {"num_attention_heads": 16}, "hidden_size is 32; expected a multiple of 4 x 16"),
    ("dinov2_hf", {"num_hidden_layers": None}, "num_hidden_layers is None; expected a whole"),
    ("dinov2_hf", {"mlp_ratio": 0}, "mlp_ratio is 0; expected a number"),
    ("dinov3", {"use_gated_mlp": "no"}, "use_gated_mlp is 'no'; expected true or false"),
    # settings that do not fit the weights
    ("hf_vit", {"qkv_bias": False}, "unexpected  .*query.bias"),
    ("hf_vit", {"num_hidden_layers": 3}, "missing     .*layer.2"),
    ("hf_vit_base", {"model_type": "dinov2"}, "unexpected  .*layernorm_after"),
    ("dinov2_hf", {"use_swiglu_ffn": True}, "missing     .*weights_in"),
    ("dinov2_swiglu", {"use_swiglu_ffn": False}, "missing     .*mlp.fc1"),
    ("dinov2_registers", {"num_register_tokens": 4}, r"\(1, 4, 32\), found \(1, 3, 32\)"),
    ("dinov3", {"use_gated_mlp": True}, "missing     .*gate_proj"),
    ("dinov3_gated", {"use_gated_mlp": False}, "unexpected  .*gate_proj"),
    ("dinov3", {"key_bias": True}, "missing     .*k_proj.bias"),
    ("dinov3_gated", {"proj_bias": False, "mlp_bias": False}, "unexpected  .*down_proj.bias"),
])  # fmt: skip
def test_refused_settings(copy, name, change, words):
    with pytest.raises(UserError, match=words):
        lift_jax.load_backbone(copy(name, config=lambda c: c.update(change)))


def test_settings_that_config_json_leaves_out_and_squares(golden, copy):
    def old(config):
        config["image_size"], config["patch_size"] = [32, 32], [8, 8]
        # the first releases of transformers did not write these
        for key in ("qkv_bias", "num_channels", "layer_norm_eps"):
            del config[key]

    folder = copy("hf_vit", config=old)
    close(features(folder, golden("clip_openai")["images"]), golden("hf_vit")["cls"])
    assert vits.read_config(open_source(folder)).vision.eps == 1e-12
    folder = GOLDEN / "dinov3"
    source = Source(folder, str(folder), config={"model_type": "dinov3_vit"})
    vision = vits.read_config(source).vision
    assert (vision.width, vision.heads, vision.rope, vision.unbiased) == (384, 6, 100.0, ("k",))


def test_the_activation_is_read_from_the_config(golden, copy):
    images = golden("clip_openai")["images"]
    folder = copy("hf_vit", config=lambda c: c.update(hidden_act="gelu_pytorch_tanh"))
    difference = features(folder, images) - golden("hf_vit")["cls"]
    assert 1e-5 < np.abs(difference).max() < 0.1


def test_image_statistics(copy):
    def statistics(folder):
        vision = vits.read_config(open_source(folder)).vision
        return vision.mean[0], vision.std[0]

    assert statistics(GOLDEN / "hf_vit") == (0.5, 0.5)
    assert statistics(GOLDEN / "dinov2_hf") == statistics(GOLDEN / "dinov3") == (0.485, 0.229)
    folder = copy("dinov3")
    images = {"image_mean": [0.43, 0.411, 0.296], "image_std": [0.213, 0.156, 0.143]}
    (folder / "preprocessor_config.json").write_text(json.dumps(images))
    assert statistics(folder) == (0.43, 0.213)


def d2(width, layers=12, **more):
    return {
        "model_type": "dinov2", "image_size": 518, "patch_size": 14, "hidden_size": width,
        "num_hidden_layers": layers, "num_attention_heads": width // 64, **more,
    }  # fmt: skip


def d3(width, layers=12, **more):
    return {
        "model_type": "dinov3_vit", "hidden_size": width, "num_hidden_layers": layers,
        "num_attention_heads": width // 64, "intermediate_size": 4 * width,
        "num_register_tokens": 4, **more,
    }  # fmt: skip


# the published models, without pooler, classifier and mask token
@pytest.mark.slow
@pytest.mark.parametrize(("config", "parameters"), [
    ({"model_type": "vit"}, 85_798_656),  # google/vit-base-patch16-224-in21k
    (d2(384), 22_056_192),
    (d2(768), 86_579_712),
    (d2(1024, 24), 304_367_616),
    (d2(1536, 40, use_swiglu_ffn=True), 1_136_479_232),
    (d2(768) | {"model_type": "dinov2_with_registers"}, 86_582_784),
    (d3(384), 21_596_160),
    (d3(384, use_gated_mlp=True, hidden_act="silu"), 28_692_480),  # S+
    (d3(768), 85_659_648),
    (d3(1024, 24), 303_128_576),
    (d3(1280, 32, use_gated_mlp=True, hidden_act="silu"), 840_591_360),  # H+
])  # fmt: skip
def test_published_sizes(config, parameters):
    source = Source(Path(config["model_type"]), config["model_type"], config=config)
    leaves = load.abstract(vits.read_config(source))
    table = vits.table(source)
    assert all(isinstance(leaf, nnx.Param) for leaf in leaves.values())
    assert sum(leaf.size for leaf in leaves.values()) == parameters
    assert all(rename.their_name(path, table) for path in leaves)
