"""Tests of OpenCLIP's format: features, and options that are read, ignored or refused."""

import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from support.paths import GOLDEN
from support.towers import close

import lift_jax
from lift_jax.errors import UserError
from lift_jax.models.resnet import ResNetConfig
from lift_jax.weights import save
from lift_jax.weights.files.source import Source
from lift_jax.weights.formats import openclip

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"


def change_json(path: Path, change) -> None:
    raw = json.loads(path.read_text())
    change(raw["model_cfg"])
    path.write_text(json.dumps(raw))


@nnx.jit  # one compilation instead of one for each operation
def features(model, images, tokens):
    """Returns features and logits by the names of the golden arrays."""
    image, text = model.encode_image(images, project=True), model.encode_text(tokens, project=True)
    unit = [x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in (image, text)]
    return {
        "image_features_pre": model.encode_image(images),
        "image_features": image,
        "text_features_pre": model.encode_text(tokens),
        "text_features": text,
        "logits": jnp.exp(model.logit_scale[...]) * unit[0] @ unit[1].T,
    }


@pytest.mark.parametrize("name", [
    "open_clip", "open_clip_gelu", "open_clip_scaled", "open_clip_avg", "open_clip_pool",
    "open_clip_pe",
])  # fmt: skip
def test_features_and_logits(golden, name):
    expected, images = golden(name), golden("clip_openai")["images"]
    found = features(lift_jax.load_backbone(GOLDEN / name), images, expected["tokens"])
    for key in found.keys() & {*expected}:
        close(found[key], expected[key])
    assert {"image_features", "text_features", "logits"} <= {*expected}


def test_of_a_coca_the_image_tower_is_read(golden):
    model = lift_jax.load_backbone(GOLDEN / "open_clip_coca")
    found = nnx.jit(model.visual)(golden("clip_openai")["images"])
    close(found, golden("open_clip_coca")["image_features_pre"])
    assert model.text is None and (model.visual.width, model.config.vision.width) == (16, 24)
    notes = " ".join(model.config.notes)
    assert "differs from CLIP's in text_cfg.embed_cls = True, which is not supported" in notes
    assert "The image tower alone is taken: there is no zero-shot classifier" in notes


@pytest.mark.parametrize(("option", "value", "words"), [
    ("timm_pool", "avg", "vision_cfg.timm_pool is 'avg'; expected 'map'"),
    ("timm_pool", None, "vision_cfg.timm_pool is None; expected 'map'"),
    ("timm_proj", "linear", "vision_cfg.timm_proj is 'linear'; expected null"),
    ("timm_model_name", "vit_base_patch16_siglip_224", "differs from CLIP's ViT .*timm_model_name"),
    ("timm_model_name", "vit_pe_spatial_base_patch16_512", "differs from CLIP's .*timm_model_name"),
])  # fmt: skip
def test_other_image_towers_of_timm_are_refused(tmp_path, option, value, words):
    shutil.copytree(GOLDEN / "open_clip_pe", tmp_path, dirs_exist_ok=True)
    change_json(tmp_path / CONFIG, lambda m: m["vision_cfg"].update({option: value}))
    with pytest.raises(UserError, match=words) as error:
        lift_jax.load_backbone(tmp_path)
    assert "\n" not in str(error.value)


def test_the_projection_of_pe_core_has_no_bias(tmp_path):
    shutil.copytree(GOLDEN / "open_clip_pe", tmp_path, dirs_exist_ok=True)
    stored = safetensors.numpy.load_file(tmp_path / WEIGHTS)
    stored["visual.trunk.head.bias"] += 1
    safetensors.numpy.save_file(stored, tmp_path / WEIGHTS)
    with pytest.raises(UserError, match="holds visual.trunk.head.bias that is not zero"):
        lift_jax.load_backbone(tmp_path)


def test_of_pe_core_with_other_texts_the_image_tower_is_read(golden, tmp_path):
    shutil.copytree(GOLDEN / "open_clip_pe", tmp_path, dirs_exist_ok=True)
    change_json(tmp_path / CONFIG, lambda m: m["text_cfg"].update(no_causal_mask=True))
    model = lift_jax.load_backbone(tmp_path)
    found = nnx.jit(model.visual)(golden("clip_openai")["images"])
    close(found, golden("open_clip_pe")["image_features_pre"])
    assert model.text is None and "no_causal_mask" in str(model.config.notes)


def test_a_resnet(golden, tmp_path):
    shutil.copy(GOLDEN / "open_clip_rn" / CONFIG, tmp_path / CONFIG)
    shutil.copy(GOLDEN / "torch" / "clip_rn.pth", tmp_path / "open_clip_pytorch_model.bin")
    expected = golden("torch/clip_rn")
    model = lift_jax.load_backbone(tmp_path)
    found = features(model, expected["images"], expected["tokens"])
    for key in ("image_features", "text_features", "logits"):
        close(found[key], expected[key])
    assert np.array_equal(found["image_features_pre"], found["image_features"])


def test_other_image_sizes(golden, tmp_path):
    expected, images = golden("open_clip_gelu"), golden("clip_openai")["images"]
    large = np.pad(images, ((0, 0), (0, 16), (0, 16), (0, 0)), mode="wrap")
    for size, resized in ((48, large), (24, images[:, :24, :24])):
        made = tmp_path / str(size)
        save.convert(GOLDEN / "open_clip_gelu", made, np.float32, resolution=size)
        model = lift_jax.load_backbone(made)
        close(model.visual.positions[...], expected[f"positions_{size}"])
        close(nnx.jit(model.visual)(resized), expected[f"image_features_pre_{size}"])


def test_a_text_tower_of_its_own_and_a_bias(golden, tmp_path):
    """CustomTextCLIP puts "text." before the same names, and may have a bias of the logits."""
    shutil.copytree(GOLDEN / "open_clip", tmp_path, dirs_exist_ok=True)
    change_json(tmp_path / CONFIG, lambda m: m.update(custom_text=True, init_logit_bias=-10))
    stored = safetensors.numpy.load_file(tmp_path / WEIGHTS)
    shared = ("visual.", "logit_scale")
    renamed = {n if n.startswith(shared) else f"text.{n}": a for n, a in stored.items()}
    renamed["logit_bias"] = np.full((), -9.5, np.float16)
    safetensors.numpy.save_file(renamed, tmp_path / WEIGHTS)
    model = lift_jax.load_backbone(tmp_path)
    expected = golden("open_clip")
    found = features(model, golden("clip_openai")["images"], expected["tokens"])
    close(found["text_features"], expected["text_features"])
    assert model.logit_bias[...] == -9.5


@pytest.mark.parametrize(("change", "words"), [
    (lambda a: a.pop("visual.proj"), ["missing", "visual.proj", "1 of"]),
    (lambda a: a.update(logit_bias=np.ones(())), ["unexpected", "logit_bias"]),
    (lambda a: a.update({"visual.proj": a["visual.proj"].T.copy()}), ["(64, 24), found (24, 64)"]),
    (lambda a: a.update({"visual.proj": a["visual.proj"] * np.float16(np.inf)}), ["not finite"]),
])  # fmt: skip
def test_wrong_weights(tmp_path, change, words):
    shutil.copytree(GOLDEN / "open_clip", tmp_path, dirs_exist_ok=True)
    stored = safetensors.numpy.load_file(tmp_path / WEIGHTS)
    change(stored)
    safetensors.numpy.save_file(stored, tmp_path / WEIGHTS)
    with pytest.raises(UserError) as error:
        lift_jax.load_backbone(tmp_path)
    for word in words:
        assert word in str(error.value)


def config_of(vision=None, text=None, preprocess=None, **model):
    model = {"embed_dim": 512, "vision_cfg": vision or {}, "text_cfg": text or {}, **model}
    raw = {"model_cfg": model, "preprocess_cfg": preprocess or {}}
    return openclip.read_config(Source(Path(), "x.safetensors", open_clip=raw))


def test_options_that_are_left_out():
    config = config_of()
    v, t = config.vision, config.text
    assert (v.resolution, v.patch, v.width, v.layers, v.heads, v.mlp) == (
        224,
        16,
        768,
        12,
        12,
        3072,
    )
    assert (t.vocab, t.context, t.width, t.layers, t.heads, t.mlp) == (49408, 77, 512, 12, 8, 2048)
    assert v.activation == t.activation == "gelu" and v.eps == t.eps == 1e-5 and t.eot is None
    assert v.mean == (0.48145466, 0.4578275, 0.40821073)


def test_options_that_are_read():
    grey = {"mean": [0.5, 0.5, 0.5], "std": [0.1, 0.2, 0.3]}
    config = config_of({"head_width": 96, "image_size": [240, 240]}, preprocess=grey)
    assert (config.vision.heads, config.vision.resolution) == (8, 240)
    assert config.vision.std == (0.1, 0.2, 0.3)
    config = config_of({"norm_kwargs": {"eps": 1e-6}}, {"act_kwargs": {"approximate": "tanh"}})
    assert (config.vision.eps, config.text.eps) == (1e-6, 1e-5)
    assert (config.vision.activation, config.text.activation) == ("gelu", "gelu_tanh")
    assert config_of(quick_gelu=True).vision.activation == "quick_gelu"
    resnet = config_of({"layers": [3, 4, 6, 3], "width": 64, "patch_size": None})
    assert resnet.vision == ResNetConfig(
        224, 512, 64, (64, 128, 256, 512), (3, 4, 6, 3), heads=32,
        mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711),
    )  # fmt: skip
    assert resnet.projections == ("text",)


def test_options_that_change_nothing():
    """These are defaults, options of training, and parts of options that are off."""
    vision = {
        "ls_init_value": None, "patch_dropout": 0.5, "attentional_pool": False, "pool_type": "tok",
        "attn_pooler_queries": 256, "no_ln_pre": False, "pos_embed_type": "learnable",
        "timm_model_name": None, "timm_pool": "avg", "qk_norm": False, "output_tokens": True,
        "block_type": "default", "input_patchnorm": False, "act_kwargs": None,
    }  # fmt: skip
    text = {
        "no_causal_mask": False, "embed_cls": False, "pool_type": "argmax", "proj_type": "linear",
        "hf_tokenizer_name": "laion/x", "hf_proj_type": "mlp", "pad_id": 0, "norm_kwargs": {},
    }  # fmt: skip
    assert config_of(vision, text, custom_text=False, init_logit_scale=2.6) == config_of()


@pytest.mark.parametrize(("part", "options"), [
    ("vision_cfg", {"timm_model_name": "vit_base_patch16_siglip_224"}),
    ("vision_cfg", {"attentional_pool": "parallel"}),
    ("vision_cfg", {"attentional_pool": "cascade"}),
    ("vision_cfg", {"pool_type": "avg", "attentional_pool": True}),
    ("vision_cfg", {"pool_type": "none"}),
    ("vision_cfg", {"pos_embed_type": "sin_cos_2d"}),
    ("vision_cfg", {"qk_norm": True}),
    ("vision_cfg", {"norm_kwargs": {"eps": 1e-6, "bias": False}}),
    ("vision_cfg", {"an_option_of_tomorrow": 1}),
    ("model_cfg", {"nonscalar_logit_scale": True}),
])  # fmt: skip
def test_options_that_are_refused(part, options):
    parts = {"vision_cfg": "vision", "text_cfg": "text"}
    given = options if part == "model_cfg" else {parts[part]: options}
    with pytest.raises(UserError, match=rf"open_clip_config\.json .*{part}\.{next(iter(options))}"):
        config_of(**given)


@pytest.mark.parametrize("options", [
    {"hf_model_name": "roberta-base"}, {"no_causal_mask": True}, {"embed_cls": True},
    {"pool_type": "eos"}, {"proj_type": "none"}, {"proj_bias": True},
    {"tokenizer_kwargs": {"clean": "canonicalize"}}, {"an_option_of_tomorrow": 1},
])  # fmt: skip
def test_options_of_texts_that_are_not_read(options):
    config = config_of(text=options)
    assert config.text is None and config.vision == config_of().vision
    assert f"differs from CLIP's in text_cfg.{next(iter(options))} = " in config.notes[0]


def test_poolings_and_norms():
    vision = config_of({"pool_type": "avg", "final_ln_after_pool": True, "no_ln_pre": True}).vision
    assert (vision.pool, vision.last_norm, vision.ln_pre) == ("avg", "after", False)
    assert vision.has_class_token and config_of({"pool_type": "avg"}).vision.last_norm == "before"
    vision = config_of({"attentional_pool": True, "ls_init_value": 1e-4}).vision
    assert (vision.pool, vision.feature, vision.pool_heads) == ("query", 512, 8)
    assert vision.layer_scale and config_of(text={"ls_init_value": 0.1}).text.layer_scale
    # OpenCLIP's own code: a norm after the pooling of the class token is that before it
    assert config_of({"final_ln_after_pool": True}) == config_of()


def test_refused_options_are_named_all_together():
    vision = {"timm_model_name": "convnext_base", "timm_pool": "", "patch_dropout": 0.5}
    with pytest.raises(UserError) as error:
        config_of(vision, {"pool_type": "last"}, nonscalar_logit_scale=True)
    for word in ("timm_model_name = 'convnext_base'", "text_cfg.pool_type = 'last'", "nonscalar"):
        assert word in str(error.value)
    assert "patch_dropout" not in str(error.value)


def test_a_tanh_gelu_needs_a_gelu():
    with pytest.raises(UserError, match="vision_cfg.act_kwargs"):
        config_of({"act_kwargs": {"approximate": "tanh"}}, quick_gelu=True)


def test_configs_that_make_no_sense():
    with pytest.raises(UserError, match="no embed_dim and no text_cfg"):
        openclip.read_config(Source(Path(), "x", open_clip={"model_cfg": {"vision_cfg": {}}}))
    with pytest.raises(UserError, match="text_cfg.width 512 is not a multiple of 7 heads"):
        config_of(text={"heads": 7})
    with pytest.raises(UserError, match="images are square"):
        config_of({"image_size": [224, 240]})
