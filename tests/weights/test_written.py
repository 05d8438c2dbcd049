"""Tests of backbones in Hugging Face's layout: what is written reads back as the same backbone."""

import dataclasses
import json

import numpy as np
import pytest
import safetensors.numpy
from support.paths import GOLDEN

import lift_jax
from lift_jax.errors import UserError
from lift_jax.models import tree
from lift_jax.models.backbone import BackboneConfig
from lift_jax.models.vit.config import VisionConfig
from lift_jax.weights import load, save
from lift_jax.weights.formats import written

# source -> the class of transformers
CLASSES = {
    "clip_hf": "CLIPModel",
    "clip_openai.safetensors": "CLIPModel",
    "open_clip_gelu": "CLIPModel",
    "siglip_hf": "SiglipModel",
    "siglip2": "SiglipModel",
    "hf_vit": "ViTModel",
    "hf_vit_base": "ViTModel",
    "timm/timm_vit": "ViTModel",
    "dinov2_hf": "Dinov2Model",
    "dinov2_swiglu": "Dinov2Model",
    "dinov2_registers": "Dinov2WithRegistersModel",
    "dinov3": "DINOv3ViTModel",
    "dinov3_gated": "DINOv3ViTModel",
}


def leaves(backbone):
    return {path: np.asarray(leaf[...]) for path, leaf in tree.flatten(backbone)[1].items()}


@pytest.mark.parametrize("source", CLASSES)
def test_a_backbone_comes_back(source, tmp_path):
    backbone = lift_jax.load_backbone(GOLDEN / source)
    save.save_for_transformers(backbone, tmp_path, GOLDEN / source)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == [CLASSES[source]]
    again = load.load_saved(tmp_path)
    assert dataclasses.replace(again.config, notes=()) == dataclasses.replace(
        backbone.config, notes=()
    )
    found, expected = leaves(again), leaves(backbone)
    assert found.keys() == expected.keys()
    for path, leaf in expected.items():
        np.testing.assert_array_equal(found[path], leaf)


@pytest.mark.parametrize("source", ["clip_hf", "siglip_hf", "hf_vit", "dinov2_hf", "dinov3"])
def test_the_names_are_those_that_transformers_wrote(source, tmp_path):
    """The golden folders were written by transformers."""
    written.save(
        tmp_path, (backbone := lift_jax.load_backbone(GOLDEN / source)).config, leaves(backbone)
    )
    ours, theirs = (
        safetensors.numpy.load_file(folder / "model.safetensors")
        for folder in (tmp_path, GOLDEN / source)
    )
    unread = ("pooler.", "rope_embeddings.", "classifier.", "vit.pooler.")
    kept = {name for name in theirs if not name.startswith(unread)}
    assert {name.removeprefix("vit.").removeprefix("dinov2.") for name in kept} == set(ours)


@pytest.mark.parametrize("name", ["CLIP", "Siglip"])
def test_an_image_tower_alone(name, tmp_path):
    source = GOLDEN / {"CLIP": "clip_hf", "Siglip": "siglip_hf"}[name]
    backbone = lift_jax.load_backbone(source)
    config = BackboneConfig(backbone.config.vision)
    tower = {path: leaf for path, leaf in leaves(backbone).items() if path.startswith("visual/")}
    layout = written.save(tmp_path, config, tower)
    assert layout.config["architectures"] == [f"{name}VisionModel"]
    assert layout.feature == "model(pixels).pooler_output"
    found = leaves(load.load_saved(tmp_path))
    assert found.keys() == tower.keys()
    assert all(np.array_equal(found[path], leaf) for path, leaf in tower.items())


def test_dinov2s_ratio_is_a_whole_number():
    sizes = VisionConfig(
        28,
        14,
        96,
        1,
        2,
        256,
        "silu",
        1e-6,
        stem_bias=True,
        ln_pre=False,
        layer_scale=True,
        gated=True,
    )
    assert written.layout_of(BackboneConfig(sizes)).config["mlp_ratio"] == 4  # 256 = 2/3 of 384
    with pytest.raises(UserError, match="no class for this backbone"):  # no ratio gives 257
        written.layout_of(BackboneConfig(dataclasses.replace(sizes, mlp=257)))


@pytest.mark.parametrize("source", ["clip_rn.safetensors", "timm_resnet.safetensors"])
def test_a_resnet_has_no_class(source, tmp_path):
    model = lift_jax.load_backbone(GOLDEN / source)
    with pytest.raises(UserError, match="no class for this backbone, such as a ResNet of CLIP"):
        save.save_for_transformers(model, tmp_path, GOLDEN / source)
    assert not list(tmp_path.iterdir())
