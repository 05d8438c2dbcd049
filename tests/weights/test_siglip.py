"""Tests of SigLIP, SigLIP 2's NaFlex and CLIP in Hugging Face's layout, and of wrong files."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from support.paths import GOLDEN
from support.towers import close

import lift_jax
from lift_jax.errors import UserError
from lift_jax.weights import save
from lift_jax.weights.files.source import Source
from lift_jax.weights.formats import siglip

PROBE = "vision_model.head.attention.in_proj_weight"


@pytest.fixture
def folder(tmp_path):
    """Returns a function that copies a golden folder and changes its config and arrays."""

    def copy(name, config=None, arrays=None) -> Path:
        made = Path(shutil.copytree(GOLDEN / name, tmp_path / "model"))
        if config is not None:
            raw = json.loads((made / "config.json").read_text())
            config(raw)
            (made / "config.json").write_text(json.dumps(raw))
        if arrays is not None:
            stored = safetensors.numpy.load_file(made / "model.safetensors")
            arrays(stored)
            safetensors.numpy.save_file(stored, made / "model.safetensors")
        return made

    return copy


@pytest.mark.slow
@pytest.mark.parametrize("name", ["siglip_hf", "siglip2"])
def test_features_and_logits(golden, name):
    expected, images = golden(name), golden("clip_openai")["images"]
    model = lift_jax.load_backbone(GOLDEN / name)

    @nnx.jit  # one compilation instead of one for each operation
    def features(model, images, tokens):
        towers = model.encode_image(images), model.encode_text(tokens)
        shared = model.encode_image(images, project=True), model.encode_text(tokens, project=True)
        return towers, shared

    (image, text), shared = features(model, images, expected["input_ids"])
    close(image, expected["image_features"])
    close(text, expected["text_features"])
    # no projection: the features lie in the shared space already
    assert np.array_equal(image, shared[0]) and np.array_equal(text, shared[1])
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
    scale, bias = np.exp(model.logit_scale[...]), model.logit_bias[...]
    close(scale * image @ text.T + bias, expected["logits_per_image"])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "numbers"), [("siglip_hf", "siglip_hf_48"), ("siglip2",) * 2])
def test_other_image_sizes(golden, tmp_path, name, numbers):
    expected, images = golden(numbers), golden("clip_openai")["images"]
    large = np.pad(images, ((0, 0), (0, 16), (0, 16), (0, 0)), mode="wrap")
    for size, resized in ((48, large), (24, images[:, :24, :24])):
        made = tmp_path / str(size)
        save.convert(GOLDEN / name, made, np.float32, resolution=size)
        model = lift_jax.load_backbone(made)
        close(model.visual.positions[...], expected[f"positions_{size}"])
        close(nnx.jit(model.visual)(resized), expected[f"image_features_{size}"])


def test_patches_of_naflex_are_in_the_order_of_our_stem(golden):
    """Our reshape gives the first two patches as transformers' image processor cuts them."""
    images = golden("clip_openai")["images"]
    found = images[:1].reshape(1, 4, 8, 4, 8, 3).transpose(0, 1, 3, 2, 4, 5).reshape(1, 16, 192)
    close(found[:, :2], golden("siglip2")["pixel_values_first"])


@pytest.mark.parametrize(("change", "words"), [
    (lambda a: a.pop(PROBE), ["missing", PROBE, "1 of"]),
    (lambda a: a.pop("logit_bias"), ["missing", "logit_bias"]),
    (lambda a: a.update(extra=np.ones(3)), ["unexpected", "extra"]),
    (lambda a: a.update({PROBE: a[PROBE].T.copy()}), [PROBE, "(144, 48), found (48, 144)"]),
    (lambda a: a.update({PROBE: a[PROBE] * np.float16(np.nan)}), ["not finite", PROBE]),
    (lambda a: a.update(logit_scale=a["logit_scale"][0:0]), ["logit_scale", "(1,), found (0,)"]),
])  # fmt: skip
def test_wrong_weights(folder, change, words):
    with pytest.raises(UserError) as error:
        lift_jax.load_backbone(folder("siglip_hf", arrays=change))
    for word in words:
        assert word in str(error.value)


def test_a_linear_patch_embedding_is_not_a_convolution(folder):
    patches = "vision_model.embeddings.patch_embedding.weight"

    def flatten(arrays):
        arrays[patches] = arrays[patches].reshape(48, -1)

    with pytest.raises(UserError, match=r"patch_embedding.*\(48, 3, 8, 8\), found \(48, 192\)"):
        lift_jax.load_backbone(folder("siglip_hf", arrays=flatten))


@pytest.mark.parametrize(("name", "change", "words"), [
    ("siglip_hf", lambda c: c["vision_config"].update(vision_use_head=False), "vision_use_head"),
    ("siglip_hf", lambda c: c["vision_config"].update(num_channels=4), "num_channels is 4"),
    ("siglip_hf", lambda c: c["vision_config"].update(hidden_act="relu"), "hidden_act is 'relu'"),
    ("siglip_hf", lambda c: c["vision_config"].update(image_size=[32, 40]), "images are square"),
    ("siglip_hf", lambda c: c["text_config"].update(num_attention_heads=5), "5 heads"),
    ("siglip_hf", lambda c: c["text_config"].update(projection_size=40), "40 wide .*projection_s"),
    ("siglip2", lambda c: c["vision_config"].update(num_patches=15), "15; expected a square"),
    ("clip_hf", lambda c: c["vision_config"].update(num_channels=4), "num_channels is 4"),
    ("clip_hf", lambda c: c["vision_config"].update(patch_size=[8, 4]), "patch_size is .8, 4."),
    ("clip_hf", lambda c: c["text_config"].update(eos_token_id=[1, 2]), r"2\]; expected a whole"),
])  # fmt: skip
def test_configs_that_the_towers_cannot_do(folder, name, change, words):
    with pytest.raises(UserError, match=rf"config\.json .*{words}"):
        lift_jax.load_backbone(folder(name, config=change))


def config_of(model_type="siglip", images=None, **raw):
    source = Source(Path(), "x", config={"model_type": model_type, **raw}, images=images or {})
    return siglip.read_config(source)


def test_fields_that_transformers_left_out():
    """Without any field the sizes are those of SigLIP B/16."""
    base = config_of()
    assert (base.vision.resolution, base.vision.patch, base.vision.width) == (224, 16, 768)
    assert (base.text.vocab, base.text.context) == (32000, 64)
    assert base.vision.mean == (0.5, 0.5, 0.5) and base.embed == 768
    images = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    assert config_of(images=images).vision.std == (0.4, 0.5, 0.6)
    nulls = config_of(text_config=None, vision_config={"image_size": None})
    assert nulls == base


def test_images_of_the_so400m_are_a_multiple_of_its_patches():
    so400m = config_of(vision_config={"image_size": 384, "patch_size": 14})
    assert so400m.vision.resolution == 378 and so400m.vision.grid == 27
    assert so400m.notes == (
        "Images are 378 pixels a side, not 384 as in pre-training, where patches of 14 left the "
        "last 6 out.",
    )


def test_siglip_2():
    assert not config_of(text_config={"vocab_size": 256000, "pad_token_id": 1}).notes
    naflex = config_of("siglip2", text_config={"vocab_size": 256000})
    assert (naflex.vision.resolution, naflex.vision.patch) == (256, 16)
    assert naflex.notes == ("NaFlex takes images of any shape; here they have 256 pixels a side.",)
    giant = {"hidden_size": 1536, "num_attention_heads": 16}
    assert config_of(vision_config=giant, text_config={"projection_size": 1536}).text.head == 1536


def test_the_old_copies_of_clips_settings_replace_the_others(folder):
    def move(raw):
        raw["vision_config_dict"] = raw["vision_config"]
        raw["vision_config"] = {"hidden_size": 1, "num_hidden_layers": 24}

    config = lift_jax.load_backbone(folder("clip_hf", config=move)).config
    assert config == lift_jax.load_backbone(GOLDEN / "clip_hf").config


def test_an_image_tower_of_clip_alone(folder, golden):
    def towers(arrays):
        for name in [n for n in arrays if not n.startswith("vis")]:
            del arrays[name]

    def alone(raw):
        raw.update(raw["vision_config"], model_type="clip_vision_model")

    model = lift_jax.load_backbone(folder("clip_hf", config=alone, arrays=towers))
    assert model.text is None and model.image_proj is None
    assert "Left out" in model.config.notes[0] and "visual_projection" in model.config.notes[0]
    images = golden("clip_openai")["images"]
    close(nnx.jit(model.visual)(images), golden("clip_hf")["image_pooled"])
