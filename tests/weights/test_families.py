"""Tests of the normalisation of bare weights: by what is in a file, by its name, or as given."""

import argparse
import json
import shutil

import numpy as np
import pytest
import safetensors.numpy
from fullsize import save_torch
from support.commands import run_command
from support.paths import GOLDEN

import lift_jax
from lift_jax.errors import UserError
from lift_jax.settings import parse, start

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def vit(width=192, patch=8, blocks=1, **more):
    """Returns the tensors of a small ViT in timm's naming, with 2 x 2 patches."""
    tensors = {
        "cls_token": (1, 1, width), "pos_embed": (1, 5, width), "norm.weight": (width,),
        "norm.bias": (width,), "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
    }  # fmt: skip
    for i in range(blocks):
        for name, out, inner in [
            ("attn.qkv", 3 * width, width), ("attn.proj", width, width),
            ("mlp.fc1", 8, width), ("mlp.fc2", width, 8),
        ]:  # fmt: skip
            tensors[f"blocks.{i}.{name}.weight"] = (out, inner)
            tensors[f"blocks.{i}.{name}.bias"] = (out,)
        for norm in ("norm1", "norm2"):
            tensors[f"blocks.{i}.{norm}.weight"] = tensors[f"blocks.{i}.{norm}.bias"] = (width,)
    return {name: np.zeros(shape, np.float16) for name, shape in (tensors | more).items()}


def under(prefix, tensors):
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def statistics(path, **sizes):
    backbone = lift_jax.load_backbone(path, **sizes)
    vision, notes = backbone.config.vision, " ".join(backbone.config.notes)
    return (vision.mean, vision.std), notes


DINO_HEAD = {"head.last_layer.weight_g": np.ones((4, 1), np.float16)}
STUDENT = under("module.backbone.", vit()) | under("module.", DINO_HEAD)
CONTENTS = {
    "DINO": ({"student": STUDENT, "teacher": under("backbone.", vit()) | DINO_HEAD, "epoch": 1,
              "args": argparse.Namespace(arch="vit_small", crops=(0.4, 1.0), names=["a"])},
             IMAGENET, "as in weights of DINO.", "teacher is taken"),
    "iBOT": ({"state_dict": vit(masked_embed=(1, 192))}, IMAGENET, "as in weights of iBOT", ""),
    "iBOT's teacher": ({"teacher": vit()}, IMAGENET, "its state dict lay under 'teacher'", ""),
    "MAE": ({"model": vit(mask_token=(1, 1, 192), **{"decoder_pred.weight": (3, 3)})},
            IMAGENET, "it holds decoder_pred.weight, as in weights of MAE", "mask_token"),
    "MAE or DeiT": ({"model": vit(**{"head.weight": (1000, 192)})}, IMAGENET, "under 'model'", ""),
    "MoCo v3": ({"state_dict": under("module.base_encoder.", vit()) |
                 under("module.momentum_encoder.", vit())},
                IMAGENET, "as in weights of MoCo v3", "'base_encoder.' is taken"),
    "DINOv2 in timm's naming": (vit(patch=14, **{"blocks.0.ls1.gamma": (192,),
                                                 "blocks.0.ls2.gamma": (192,)}),
                                IMAGENET, "as in weights of DINOv2", ""),
    "ImageNet-21k": (vit(**{"head.weight": (21843, 192)}), HALF, "21,843 classes", ""),
    "EMA": ({"state_dict": vit(), "model_ema": vit()}, HALF, "give mean=", "state_dict is taken"),
    "nothing": (vit(), HALF, "nothing in it says which ViT it is. Taken: mean 0.5,0.5,0.5", ""),
}  # fmt: skip


@pytest.mark.parametrize("kind", CONTENTS)
def test_by_what_is_in_the_file(tmp_path, kind):
    contents, expected, why, chosen = CONTENTS[kind]
    save_torch(contents, tmp_path / "weights.pth")
    found, notes = statistics(tmp_path / "weights.pth")
    assert found == expected
    assert why in notes and chosen in notes and "model.mean and model.std" in notes


NAMES = {
    "dino_vitbase16_pretrain": IMAGENET, "dino_deitsmall16_pretrain": IMAGENET,
    "ibot_vits_16": IMAGENET, "mae_pretrain_vit_base": IMAGENET,
    "vit_base_patch16_224.mae": IMAGENET, "deit_base_patch16_224-b5f2ef4d": IMAGENET,
    "mocov3_vits": IMAGENET, "dinov2_vitb14": IMAGENET,
    "vit_base_patch16_224.augreg_in21k": HALF, "vit_base_patch16_224.sam_in1k": HALF,
    "dinosaurs": HALF, "maestro": HALF, "my_vit": HALF,
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_by_the_name_of_the_file(tmp_path, name):
    safetensors.numpy.save_file(vit(), tmp_path / f"{name}.safetensors")
    found, notes = statistics(tmp_path / f"{name}.safetensors")
    assert found == NAMES[name]
    sure = name not in ("dinosaurs", "maestro", "my_vit")
    assert (f"because its name is '{name}.safetensors'" in notes) == sure
    assert ("nothing in it says" in notes) != sure


def test_what_the_file_holds_comes_before_its_name(tmp_path):
    save_torch({"teacher": vit()}, tmp_path / "augreg.pth")
    assert statistics(tmp_path / "augreg.pth")[0] == IMAGENET
    save_torch({"model": vit()}, tmp_path / "augreg.pth")  # which anyone may write
    assert statistics(tmp_path / "augreg.pth")[0] == HALF


def test_heads_of_moco_v3(tmp_path):
    save_torch({"state_dict": under("module.base_encoder.", vit(384))}, tmp_path / "a.pth.tar")
    assert lift_jax.load_backbone(tmp_path / "a.pth.tar").config.vision.heads == 12
    save_torch(vit(384), tmp_path / "b.pth")
    assert lift_jax.load_backbone(tmp_path / "b.pth").config.vision.heads == 6


def test_a_vit_of_transformers_without_its_image_settings(tmp_path):
    def folder(name):
        made = shutil.copytree(GOLDEN / "hf_vit", tmp_path / name)
        (made / "preprocessor_config.json").unlink()
        return made

    found, notes = statistics(folder("dino-vits16"))
    assert found == IMAGENET and "its name is 'dino-vits16'" in notes
    found, notes = statistics(folder("vit"))
    assert found == HALF and "nothing in it says" in notes
    assert "normalised" not in statistics(GOLDEN / "hf_vit")[1]


def test_a_config_of_timm_without_statistics(tmp_path):
    safetensors.numpy.save_file(vit(), tmp_path / "model.safetensors")
    config = {"architecture": "deit_tiny_patch16_224"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found, notes = statistics(tmp_path)
    assert found == IMAGENET and "its name is 'deit_tiny_patch16_224'" in notes


SOURCES = ["timm_vit.safetensors", "timm_resnet.safetensors", "clip_openai.safetensors",
           "dinov2_hf", "siglip_hf", "open_clip"]  # fmt: skip


@pytest.mark.parametrize("source", SOURCES)
def test_statistics_that_are_given(source):
    given = (0.1, 0.2, 0.3), (0.4, 0.5, 1)
    found, notes = statistics(GOLDEN / source, mean=given[0], std=given[1])
    assert found == given
    assert "normalised by mean 0.1,0.2,0.3 and std 0.4,0.5,1, as given." in notes
    assert "does not state" not in notes


def test_statistics_in_an_array_and_a_config_that_is_not_read(tmp_path):
    mean, std = np.array([0.5, 0.25, 0]), np.array([0.5, 1, 0.25])
    found, _ = statistics(GOLDEN / "timm_vit.safetensors", mean=mean, std=std)
    assert found == ((0.5, 0.25, 0), (0.5, 1, 0.25))
    safetensors.numpy.save_file(vit(), tmp_path / "vit.safetensors")
    config = {"architecture": "vit_tiny_patch16_224", "mean": [0, 0, 0], "std": [1, 1, 1]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    beside = statistics(tmp_path / "vit.safetensors")[1]
    assert "config.json may, which is read with the folder" in beside
    assert statistics(tmp_path) == (((0, 0, 0), (1, 1, 1)), "")


@pytest.mark.parametrize("value", [0.5, (0.1, 0.2), (0.1, 0.2, "a"), "0.1,0.2,0.3", (0, -1, 0)])
def test_wrong_statistics(value):
    with pytest.raises(UserError, match="std is .*; expected three numbers above 0"):
        lift_jax.load_backbone(GOLDEN / "timm_vit.safetensors", mean=HALF[0], std=value)


@pytest.mark.parametrize("name", ["mean", "std"])
def test_mean_and_std_are_given_together(name):
    with pytest.raises(UserError, match=rf"{name} is given alone .*give both"):
        lift_jax.load_backbone(GOLDEN / "timm_vit.safetensors", **{name: (0.1, 0.2, 0.3)})


def test_options_of_convert(tmp_path, capsys):
    source = str(GOLDEN / "timm_vit.safetensors")
    convert = ["convert", source, str(tmp_path / "a"), "--mean=0.1,0.2,0.3", "--std=0.4,0.5,0.6"]
    run_command(*convert)
    assert "normalised by mean 0.1,0.2,0.3 and std 0.4,0.5,0.6" in capsys.readouterr().out
    assert statistics(tmp_path / "a")[0] == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    with pytest.raises(SystemExit, match="2"):
        run_command("convert", source, tmp_path / "b", "--mean=0.1,0.2")
    assert "--mean is '0.1,0.2'; expected three numbers" in capsys.readouterr().err


def config(**values):
    c = start()
    for key, value in values.items():
        setattr(c.model, key, value)
    return parse(c).model


def test_settings():
    assert config().loading == {}
    given = {"mean": "0.1,0.2,0.3", "std": " 0.4, 0.5,1"}
    assert config(**given).loading == {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 1.0)}


@pytest.mark.parametrize(("values", "words"), [
    ({"mean": "0.1,0.2,0.3"}, "model.std is not: give both"),
    ({"std": "0.1,0.2,0.3"}, "model.mean is not: give both"),
    ({"mean": "0.1", "std": "1,1,1"}, "model.mean is '0.1'; expected three numbers"),
    ({"mean": "a,b,c", "std": "1,1,1"}, "model.mean is 'a,b,c'; expected three numbers"),
    ({"mean": "nan,0,0", "std": "1,1,1"}, "model.mean is 'nan,0,0'; expected three"),
    ({"mean": "0,0,0", "std": "1,0,1"}, "expected three numbers above 0"),
])  # fmt: skip
def test_wrong_settings(values, words):
    with pytest.raises(UserError, match=words):
        config(**values)
