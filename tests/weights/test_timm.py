"""Tests of timm's ViT and ResNet, from folders of its hub and from bare weights."""

import csv
import json
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from support.paths import GOLDEN
from support.towers import close

import lift_jax
from lift_jax.errors import UserError
from lift_jax.evaluation import forward
from lift_jax.models.vit.config import CLIP_MEAN, CLIP_STD, VisionConfig
from lift_jax.weights.files.source import Source
from lift_jax.weights.formats import families
from lift_jax.weights.formats.timm import config, names

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def at(images, size: int):
    """Returns the images at another size, repeated or cut as for the golden features."""
    more = max(0, size - 32)
    return np.pad(images, ((0, 0), (0, more), (0, more), (0, 0)), mode="wrap")[:, :size, :size]


def test_bare_vit(golden):
    backbone = lift_jax.load_backbone(GOLDEN / "timm_vit.safetensors")
    images = golden("clip_openai")["images"]
    close(jax.jit(backbone.encode_image)(images), golden("timm_vit")["cls"])
    vision = backbone.config.vision
    assert (vision.heads, vision.eps, vision.activation) == (2, 1e-6, "gelu")
    assert vision.mean == vision.std == (0.5, 0.5, 0.5)
    assert backbone.text is None


@pytest.mark.slow
@pytest.mark.parametrize("size", [48, 24])
@pytest.mark.parametrize(("source", "name"), [
    ("timm_vit.safetensors", "timm_vit_48"), ("timm/timm_vit", "timm/timm_vit"),
])  # fmt: skip
def test_vit_at_another_resolution(golden, source, name, size):
    expected, images = golden(name), golden("clip_openai")["images"]
    backbone = lift_jax.load_backbone(GOLDEN / source, resolution=size)
    close(backbone.visual.positions[...], expected[f"positions_{size}"])
    close(jax.jit(backbone.encode_image)(at(images, size)), expected[f"cls_{size}"])


def test_vit_of_the_hub(golden):
    backbone = lift_jax.load_backbone(GOLDEN / "timm" / "timm_vit")
    images = golden("clip_openai")["images"]
    close(jax.jit(backbone.encode_image)(images), golden("timm/timm_vit")["cls"])
    assert any("head.weight" in note for note in backbone.config.notes)


# What weights and name of each model say: pooling, class token, registers, which tokens have
# positions, place of the last norm, activation, epsilon.
KINDS = {
    "timm_gap": ("avg", False, 2, "none", "after", "gelu", 1e-6),
    "timm_gap_norm": ("avg", False, 0, "cls", "before", "gelu", 1e-6),
    "timm_fc_norm": ("avg", True, 0, "cls", "after", "gelu", 1e-6),
    "timm_so150m": ("avg", False, 2, "all", "before", "gelu", 1e-6),
    "timm_distilled": ("pair", True, 1, "all", "before", "gelu", 1e-6),
    "timm_deit3": ("cls", True, 0, "none", "before", "gelu", 1e-6),
    "timm_dinov2": ("cls", True, 3, "none", "before", "silu", 1e-6),
    "timm_siglip": ("map", False, 0, "cls", "before", "gelu_tanh", 1e-6),
    "timm_map": ("map", False, 3, "all", "before", "gelu", 1e-6),
    "timm_clip": ("cls", True, 0, "cls", "before", "quick_gelu", 1e-5),
    "timm_intern": ("cls", True, 0, "cls", "none", "gelu", 1e-6),
    "timm_beit3": ("avg", True, 0, "cls", "after", "gelu", 1e-5),
    "timm_eva": ("avg", True, 0, "cls", "after", "gelu", 1e-6),
    "timm_eva02": ("cls", True, 0, "cls", "before", "silu", 1e-6),
    "timm_eva02_small": ("avg", True, 0, "cls", "after", "silu", 1e-6),
    "timm_pe": ("map_all", True, 0, "cls", "before", "gelu", 1e-5),
    "timm_pe_gigantic": ("map_all", False, 0, "cls", "before", "gelu", 1e-5),
    "timm_tipsv2": ("cls", True, 1, "none", "before", "gelu", 1e-6),
    "timm_tipsv2_giant": ("cls", True, 1, "none", "before", "silu", 1e-6),
    "timm_dinov3": ("avg", True, 2, "cls", "before", "silu", 1e-5),
}


def kind_of(v: VisionConfig) -> tuple:
    return (
        v.pool, v.has_class_token, v.registers, v.positioned, v.last_norm, v.activation, v.eps
    )  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_vits_of_other_kinds(golden, name):
    backbone = lift_jax.load_backbone(GOLDEN / "timm" / name)
    images = golden("clip_openai")["images"]
    close(jax.jit(backbone.encode_image)(images), golden(f"timm/{name}")["cls"])
    assert kind_of(backbone.config.vision) == KINDS[name]
    assert "aken:" not in str(backbone.config.notes)


@pytest.mark.parametrize("name", [
    "timm_gap", "timm_so150m", "timm_distilled", "timm_map", "timm_eva02", "timm_pe",
    "timm_tipsv2",
])  # fmt: skip
def test_other_kinds_at_another_resolution(golden, name):
    expected, images = golden(f"timm/{name}"), golden("clip_openai")["images"]
    backbone = lift_jax.load_backbone(GOLDEN / "timm" / name, resolution=48)
    close(backbone.visual.positions[...], expected["positions_48"])
    close(jax.jit(backbone.encode_image)(at(images, 48)), expected["cls_48"])


@pytest.mark.parametrize(("name", "words", "sizes"), [
    ("timm_gap", "Taken: the mean of the patches", {"heads": 3}),
    ("timm_clip", "Taken: eps 1e-05, activation gelu", {"heads": 2}),
    ("timm_siglip", "Taken: eps 1e-06, activation gelu", {"heads": 3}),
    ("timm_distilled", "", {"heads": 4}),
    ("timm_dinov2", "", {"heads": 3}),
])  # fmt: skip
def test_what_bare_weights_do_not_show_is_said(golden, tmp_path, name, words, sizes):
    file = shutil.copy(GOLDEN / "timm" / name / "model.safetensors", tmp_path / "a.safetensors")
    backbone = lift_jax.load_backbone(file, **sizes)
    notes = str(backbone.config.notes)
    assert words in notes and (words or "aken: eps" not in notes)
    act = KINDS[name][5]
    given = sizes | ({"activation": act} if words else {})
    backbone = lift_jax.load_backbone(file, **given)
    found = jax.jit(backbone.encode_image)(golden("clip_openai")["images"])
    close(found, golden(f"timm/{name}")["cls"])


def test_the_own_names_of_deit_3(golden, tmp_path):
    tensors = safetensors.numpy.load_file(GOLDEN / "timm" / "timm_deit3" / "model.safetensors")
    own = {re.sub(r"ls(\d)\.gamma", r"gamma_\1", name): array for name, array in tensors.items()}
    safetensors.numpy.save_file(own, tmp_path / "a.safetensors")
    backbone = lift_jax.load_backbone(tmp_path / "a.safetensors", heads=3)
    found = jax.jit(backbone.encode_image)(golden("clip_openai")["images"])
    close(found, golden("timm/timm_deit3")["cls"])
    assert (backbone.config.vision.mean, backbone.config.vision.std) == IMAGENET


def test_a_name_that_is_not_known(folder):
    path = folder("vit")
    change_config(path, lambda c: c.update(architecture="my_vit"))
    notes = str(lift_jax.load_backbone(path).config.notes)
    assert "its name 'my_vit' does not say which activation and epsilon it has. Taken: eps" in notes


def test_traits_by_name():
    """All ViTs of timm 1.0.31; those without numbers differ from our tower, so no name is known."""
    with open(GOLDEN / "timm" / "names.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 270 and sum(bool(row["width"]) for row in rows) == 185
    for row in rows:
        name, width = row["name"], int(row["width"] or 768)
        images = {"mean": [0.5] * 3, "std": [0.5] * 3}
        source = Source(Path(), name, config={"architecture": name, "pretrained_cfg": images})
        heads, eps = names.heads_of(source, width), names.trait_of(source, "eps", 1e-6)
        if not row["width"]:
            with pytest.raises(UserError, match=f"{name}', which may compute other features"):
                config._check_settings(source, ("avg",))
            continue
        config._check_settings(source, ("avg",))
        assert (heads, eps) == (int(row["heads"]), float(row["eps"])), name
        # silu is that of gated MLPs, which shapes show
        assert row["activation"] in (names.trait_of(source, "activation", "gelu"), "silu"), name


@pytest.mark.parametrize("name", [
    "vit_base_patch16_rope_ape_224", "vit_pe_spatial_base_patch16_512", "vit_base_patch16_rpn_224",
])  # fmt: skip
def test_timms_names_of_other_computations_on_the_same_weights(folder, tmp_path, name):
    path = folder("vit")
    change_config(path, lambda c: c.update(architecture=name))
    for sizes in ({}, {"heads": 4}):
        with pytest.raises(UserError, match=f"the model is '{name}', which may compute other"):
            lift_jax.load_backbone(path, **sizes)
    file = shutil.copy(path / "model.safetensors", tmp_path / f"{name}.safetensors")
    with pytest.raises(UserError, match="in its name stands for a ViT with the weights of another"):
        lift_jax.load_backbone(file, heads=4)


def test_pe_core_by_its_config(folder):
    sizes = {"pool_heads": 2, "pool_mlp": 96, "rope_grid": 5, "rope_order": "xy", "rope_start": 1}
    path = folder("pe")
    vision = lift_jax.load_backbone(path).config.vision
    assert {name: getattr(vision, name) for name in sizes} == sizes
    change_config(path, lambda c: [c["model_args"].pop(k) for k in ("ref_feat_shape",)])
    assert lift_jax.load_backbone(path).config.vision.rope_grid == 14  # by the name, 224 / 16
    for option in ({"attn_pool_num_heads": 5}, {"attn_pool_num_heads": "2"}):
        change_config(path, lambda c, option=option: c["model_args"].update(option))
        with pytest.raises(UserError, match="heads"):
            lift_jax.load_backbone(path)
    change_config(path, lambda c: c["model_args"].update(rope_grid_offset=0))
    with pytest.raises(UserError, match="built with rope_grid_offset, which is not supported"):
        lift_jax.load_backbone(path)
    (path / "config.json").unlink()
    with pytest.raises(UserError, match="which is not supported. Give PE-Core as timm's folder"):
        lift_jax.load_backbone(path)


def test_bare_weights_of_tipsv2_by_their_name(folder, tmp_path):
    """They look like DINOv2's, whose images are normalised otherwise."""
    file = tmp_path / "vit_base_patch14_reg1_tipsv2.safetensors"
    shutil.copy(folder("tipsv2") / "model.safetensors", file)
    config = lift_jax.load_backbone(file, heads=3).config
    assert (config.vision.mean, config.vision.std) == ((0, 0, 0), (1, 1, 1))
    assert "as in weights of TIPSv2" in str(config.notes)
    signs = {"mask_token": np.zeros((1, 24)), "blocks.0.ls1.gamma": np.ones(24)}
    for name, title in (("tips_b14.pth", "TIPSv2"), ("tipster.pth", "DINOv2")):
        found = families.family(Source(Path(name), name, tensors=signs))
        assert found and found[0].title == title


def test_an_eva_without_its_name_is_refused(folder):
    path = folder("eva02")
    change_config(path, lambda c: c.update(architecture="eva02_enormous_patch14_clip_224"))
    with pytest.raises(UserError, match="supported. Give EVA, EVA-02 or DINOv3 as timm's folder"):
        lift_jax.load_backbone(path)
    with pytest.raises(UserError, match="has heads 8 wide; leave out heads=4"):
        lift_jax.load_backbone(GOLDEN / "timm" / "timm_eva02", heads=4)


def test_bare_resnet(golden):
    expected = golden("timm_resnet")
    backbone = lift_jax.load_backbone(GOLDEN / "timm_resnet.safetensors")
    assert (backbone.config.vision.mean, backbone.config.vision.std) == IMAGENET
    # the golden features are of images with CLIP's statistics
    clip = VisionConfig(64, 8, 8, 1, 1, 8, mean=CLIP_MEAN, std=CLIP_STD)
    images = forward.normalise(jnp.asarray(expected["images_u8"]), clip)
    close(jax.jit(backbone.encode_image)(images), expected["features"])


def test_resnet_of_the_hub(golden):
    expected, images = golden("timm/timm_resnet"), golden("torch/clip_rn")["images"]
    backbone = lift_jax.load_backbone(GOLDEN / "timm" / "timm_resnet")
    close(jax.jit(backbone.visual.maps)(images), expected["layer4"])
    close(jax.jit(backbone.encode_image)(images), expected["features"])
    vision = backbone.config.vision
    assert (vision.resolution, vision.width, vision.mean) == (224, 48, IMAGENET[0])


def change_config(folder: Path, change) -> None:
    raw = json.loads((folder / "config.json").read_text())
    change(raw)
    (folder / "config.json").write_text(json.dumps(raw))


@pytest.fixture
def folder(tmp_path):
    """Returns a function that copies a golden folder: of a vit, a resnet, gap, ..."""
    return lambda kind: Path(shutil.copytree(GOLDEN / "timm" / f"timm_{kind}", tmp_path / kind))


def test_images_are_prepared_as_the_config_says(folder):
    def old(config):  # old files have the image settings beside the architecture
        pretrained = config.pop("pretrained_cfg")
        config |= pretrained | {"mean": [0.1, 0.2, 0.3], "input_size": [3, 96, 96]}

    for kind, resolution in (("vit", 32), ("resnet", 96)):
        path = folder(kind)
        change_config(path, old)
        vision = lift_jax.load_backbone(path).config.vision
        assert (vision.mean, vision.resolution) == ((0.1, 0.2, 0.3), resolution)


def test_heads_that_nothing_tells(tmp_path, folder):
    arrays = safetensors.numpy.load_file(GOLDEN / "timm_vit.safetensors")
    file = tmp_path / "bare.safetensors"
    safetensors.numpy.save_file(arrays, file)
    with pytest.raises(UserError, match="heads of its ViT of width 128. Give heads="):
        lift_jax.load_backbone(file)
    given = lift_jax.load_backbone(file, heads=4, eps=1e-5, activation="gelu_tanh").config.vision
    assert (given.heads, given.eps, given.activation) == (4, 1e-5, "gelu_tanh")
    path = folder("vit")
    change_config(path, lambda c: (c["model_args"].pop("num_heads"), c.update(architecture="x")))
    with pytest.raises(UserError, match="its name 'x'. Give heads="):
        lift_jax.load_backbone(path)


@pytest.mark.parametrize(("width", "architecture", "heads"), [
    (192, "vit_tiny_patch16_224", 3), (384, "deit_small_patch16_224", 6), (192, None, 3),
])  # fmt: skip
def test_heads_by_the_width_of_a_plain_vit(tmp_path, width, architecture, heads):
    arrays = {
        "cls_token": (1, 1, width), "pos_embed": (1, 5, width), "norm.weight": (width,),
        "patch_embed.proj.weight": (width, 3, 2, 2), "patch_embed.proj.bias": (width,),
        "norm.bias": (width,), "blocks.0.norm1.weight": (width,), "blocks.0.norm1.bias": (width,),
        "blocks.0.norm2.weight": (width,), "blocks.0.norm2.bias": (width,),
        "blocks.0.attn.qkv.weight": (3 * width, width), "blocks.0.attn.qkv.bias": (3 * width,),
        "blocks.0.attn.proj.weight": (width, width), "blocks.0.attn.proj.bias": (width,),
        "blocks.0.mlp.fc1.weight": (8, width), "blocks.0.mlp.fc1.bias": (8,),
        "blocks.0.mlp.fc2.weight": (width, 8), "blocks.0.mlp.fc2.bias": (width,),
    }  # fmt: skip
    zeros = {name: np.zeros(shape, np.float32) for name, shape in arrays.items()}
    safetensors.numpy.save_file(zeros, tmp_path / "model.safetensors")
    if architecture:
        (tmp_path / "config.json").write_text(json.dumps({"architecture": architecture}))
    vision = lift_jax.load_backbone(tmp_path).config.vision
    assert (vision.heads, vision.resolution, vision.patch) == (heads, 4, 2)


@pytest.mark.parametrize(("kind", "change", "words"), [
    ("vit", lambda c: c.update(global_pool="map", model_args={}), "pooled by 'map'"),
    ("vit", lambda c: c["model_args"].update(global_pool="avgmax"), "pooled by 'avgmax'"),
    ("vit", lambda c: c["model_args"].update(act_layer="relu"), "built with act_layer 'relu'"),
    ("vit", lambda c: c["model_args"].update(pool_include_prefix=True), "with pool_include_prefix"),
    ("vit", lambda c: c["model_args"].update(norm_layer="rmsnorm"), "built with norm_layer"),
    ("gap", lambda c: c["model_args"].update(global_pool="token"), "'token'; expected 'avg'"),
    ("siglip", lambda c: c["model_args"].update(global_pool="avg"), "'avg'; expected 'map'"),
    ("resnet", lambda c: c["model_args"].update(output_stride=8), "built with output_stride"),
    ("resnet", lambda c: c["model_args"].update(global_pool="max"), "pooled by 'max'"),
    ("resnet", lambda c: c.update(architecture="resnetblur50"), "the model is 'resnetblur50'"),
])  # fmt: skip
def test_other_computations_on_the_same_names(folder, kind, change, words):
    path = folder(kind)
    change_config(path, change)
    with pytest.raises(UserError, match=words):
        lift_jax.load_backbone(path)


def test_another_kind_of_model(tmp_path):
    safetensors.numpy.save_file({"stem.0.weight": np.ones(2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"architecture": "convnext_base"}')
    with pytest.raises(UserError, match="holds timm's 'convnext_base', which is not supported"):
        lift_jax.load_backbone(tmp_path)


def test_a_resnet_takes_no_heads():
    with pytest.raises(UserError, match="is a ResNet, which takes no heads"):
        lift_jax.load_backbone(GOLDEN / "timm_resnet.safetensors", heads=2)


QKV, CONV = "blocks.1.attn.qkv.weight", "layer2.0.conv2.weight"
VAR = "layer3.0.downsample.1.running_var"


def fuse(a):
    a["blocks.0.ls1.gamma"], a["blocks.0.attn.q_norm.weight"] = np.ones(128), np.ones(64)


@pytest.mark.parametrize(("kind", "change", "words"), [
    ("vit", lambda a: a.pop(QKV), ["missing", QKV]),
    ("vit", lambda a: a.update({QKV: a[QKV].T.copy()}), ["wrong shape", QKV, "found (128, 384)"]),
    ("vit", lambda a: a.update({QKV: np.full_like(a[QKV], np.nan)}), ["not finite", QKV]),
    ("vit", lambda a: a.pop("blocks.2.norm1.bias"), ["missing", "blocks.2.norm1.bias"]),
    ("vit", lambda a: a.pop("cls_token"), ["17 places and 0 tokens", "cls_token"]),
    ("vit", fuse, ["unexpected", "missing", "ls2.gamma", "q_norm.weight"]),
    ("vit", lambda a: a.pop("pos_embed"), ["expected pos_embed with 3 axes, found none"]),
    ("resnet", lambda a: a.pop(CONV), ["missing", CONV]),
    ("resnet", lambda a: a.pop(VAR), ["missing", VAR]),
    ("resnet", lambda a: a.pop("conv1.weight"), ["expected conv1.weight with 4 axes, found none"]),
    ("resnet", lambda a: a.update({CONV: a[CONV][:, :8].copy()}), ["wrong shape", CONV]),
    ("resnet", lambda a: a.update({VAR: np.full_like(a[VAR], np.inf)}), ["not finite", VAR]),
    ("resnet", lambda a: [a.pop(n) for n in list(a) if ".conv3." in n], ["two convolutions"]),
])  # fmt: skip
def test_wrong_weights_are_named(tmp_path, kind, change, words):
    arrays = safetensors.numpy.load_file(GOLDEN / f"timm_{kind}.safetensors")
    change(arrays)
    file = tmp_path / "wrong.safetensors"
    safetensors.numpy.save_file(arrays, file)
    with pytest.raises(UserError) as error:
        lift_jax.load_backbone(file, **({"heads": 2} if kind == "vit" else {}))
    for word in words:
        assert word in str(error.value)
