"""Tests of odd weights: prefixes, several towers, and kinds that are refused with what to do."""

import json
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy
from fullsize import save_torch
from support.paths import GOLDEN
from support.towers import close

import lift_jax
from lift_jax.errors import UserError


def stored(name):
    return safetensors.numpy.load_file(GOLDEN / name)


def save(path, tensors):
    plain = {name: np.array(tensor, order="C") for name, tensor in tensors.items()}
    safetensors.numpy.save_file(plain, path)
    return path


def under(prefix, tensors):
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def features(path, images, **sizes):
    backbone = lift_jax.load_backbone(path, **sizes)
    return jax.jit(backbone.encode_image)(images), " ".join(backbone.config.notes)


# what a source is, its golden features, and the sizes that it does not state
SOURCES = {
    "timm_vit.safetensors": ("timm_vit", "cls", {"heads": 2}),
    "clip_openai.safetensors": ("clip_openai", "cls", {"heads": 2, "text_heads": 2}),
}  # fmt: skip
PREFIXES = [
    "module.", "model.", "clip.", "_orig_mod.", "backbone.", "encoder.", "_orig_mod.module.",
    "module.model.backbone.", "anything.at.all.",
]  # fmt: skip


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_is_dropped(golden, tmp_path, prefix):
    file = save(tmp_path / "a.safetensors", under(prefix, stored("timm_vit.safetensors")))
    found, notes = features(file, golden("clip_openai")["images"], heads=2)
    close(found, golden("timm_vit")["cls"])
    assert "left out" not in notes
    file = save(tmp_path / "b.safetensors", under(prefix, stored("clip_openai.safetensors")))
    clip = lift_jax.load_backbone(file, heads=2, text_heads=2)
    assert clip.text is not None and clip.config.vision.heads == 2


def test_a_prefix_in_a_folder_of_transformers(golden, tmp_path):
    folder = shutil.copytree(GOLDEN / "dinov2_hf", tmp_path / "copy")
    save(folder / "model.safetensors", under("module.", stored("dinov2_hf/model.safetensors")))
    close(features(folder, golden("clip_openai")["images"])[0], golden("dinov2_hf")["cls"])


def test_a_tower_beside_others(golden, tmp_path):
    tower = stored("timm_vit.safetensors")
    other = {name: tensor + 1 for name, tensor in tower.items()}
    images, expected = golden("clip_openai")["images"], golden("timm_vit")["cls"]
    for kept, lost in [
        ("teacher.backbone.", "student.backbone."), ("backbone.", "momentum_backbone."),
        ("base_encoder.", "momentum_encoder."), ("encoder_q.", "encoder_k."),
        ("model.", "model_ema."),
    ]:  # fmt: skip
        file = save(tmp_path / f"{kept}safetensors", under(lost, other) | under(kept, tower))
        found, notes = features(file, images, heads=2)
        close(found, expected)
        assert f"that under '{kept}' is taken, not '{lost}'" in notes
    beside = under("backbone.", tower) | {"head.0.weight": np.ones(2), "queue": np.ones(2)}
    found, notes = features(save(tmp_path / "c.safetensors", beside), images, heads=2)
    close(found, expected)
    assert "the rest is left out (2, like head.0.weight)" in notes
    file = save(tmp_path / "d.safetensors", under("left.", tower) | under("right.", tower))
    with pytest.raises(UserError, match="several image towers, whose names begin 'left.', 'right"):
        lift_jax.load_backbone(file)


@pytest.mark.parametrize("prefix", ["visual.", "", "module.visual."])
@pytest.mark.parametrize("name", ["clip_openai", "clip_rn"])
def test_an_image_tower_of_clip_alone(tmp_path, golden, name, prefix):
    whole = stored(f"{name}.safetensors")
    tower = {k.removeprefix("visual."): t for k, t in whole.items() if k.startswith("visual.")}
    heads = {"heads": 2} if name == "clip_openai" else {}
    with_text = lift_jax.load_backbone(GOLDEN / f"{name}.safetensors", **heads)
    file = save(tmp_path / "a.safetensors", under(prefix, tower))
    alone = lift_jax.load_backbone(file, **heads)
    size = alone.config.vision.resolution
    images = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)
    expected = jax.jit(with_text.encode_image)(images)
    np.testing.assert_array_equal(jax.jit(alone.encode_image)(images), expected)
    assert alone.text is None and alone.config.vision == with_text.config.vision
    assert "as its" not in str(alone.config.notes) and "(CLIP's)" in str(alone.config.notes)


@pytest.mark.parametrize("name", ["clip_hf", "siglip_hf"])
def test_an_image_tower_with_a_classifier(tmp_path, golden, name):
    folder = shutil.copytree(GOLDEN / name, tmp_path / "copy")
    tensors = stored(f"{name}/model.safetensors")
    kept = {k: t for k, t in tensors.items() if k.startswith("vision_model.")}
    save(folder / "model.safetensors", kept | {"classifier.weight": np.ones((5, 8))})
    config = json.loads((folder / "config.json").read_text())
    kind = f"{'CLIP' if name == 'clip_hf' else 'Siglip'}ForImageClassification"
    (folder / "config.json").write_text(json.dumps(config | {"architectures": [kind]}))
    images = golden("clip_openai")["images"]
    found, notes = features(folder, images)
    np.testing.assert_array_equal(found, features(GOLDEN / name, images)[0])
    assert "classifier.weight" in notes and "not the mean of the patches" in notes


def test_a_layer_of_peft_within_whole_weights(tmp_path):
    whole = stored("timm_vit.safetensors") | {"blocks.0.attn.qkv.lora_A.x": np.ones(2)}
    with pytest.raises(UserError, match=r"adapter of peft.*merge_and_unload\(\)"):
        lift_jax.load_backbone(save(tmp_path / "whole.safetensors", whole))


def test_merged_weights_beside_an_adapter(tmp_path):
    folder = shutil.copytree(GOLDEN / "hf_vit", tmp_path / "copy")
    (folder / "adapter_config.json").write_text("{}")
    assert "adapter of peft" in str(lift_jax.load_backbone(folder).config.notes)


@pytest.mark.parametrize("prefix", ["", "module.", "model.clip.", "anything."])
@pytest.mark.parametrize("name", ["dinov2_hf", "dinov3", "hf_vit", "clip_hf", "siglip_hf"])
def test_transformers_weights_without_their_config(tmp_path, name, prefix):
    file = tmp_path / "mine.safetensors"
    save(file, under(prefix, stored(f"{name}/model.safetensors")))
    for given in (file, tmp_path):
        says = rf"expected {tmp_path}/config.json, found none. Put the config.json of the same"
        with pytest.raises(UserError, match=says) as e:
            lift_jax.load_backbone(given)
        assert "heads=" not in str(e.value) and "\n" not in str(e.value)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="config.json, found one without model_type. Put the"):
        lift_jax.load_backbone(file)
    shutil.copy(GOLDEN / name / "config.json", tmp_path)
    beside = lift_jax.load_backbone(file).config
    assert beside.vision == lift_jax.load_backbone(GOLDEN / name).config.vision
    assert f"The sizes are those of {tmp_path}/config.json" in str(beside.notes)
    assert lift_jax.load_backbone(tmp_path).config.vision == beside.vision


X = np.ones(2, np.float32)
VIT, RESNET = "timm_vit.safetensors", "timm_resnet.safetensors"
REFUSED = {
    "BEiT": (VIT, {"blocks.0.gamma_1": X, "blocks.0.attn.q_bias": X}),
    "BEiT with positions": (VIT, {"rel_pos_bias.relative_position_bias_table": X}),
    "data2vec": (VIT, {"blocks.0.attn.relative_position_bias_table": X}),
    "EVA": (VIT, {"blocks.0.attn.inner_attn_ln.weight": X}),
    "EVA-02": (VIT, {"blocks.0.attn.q_proj.weight": X, "rope.freqs_cos": X}),
    "SAM": (VIT, {"blocks.0.attn.rel_pos_h": X}),
    "Swin": (VIT, {"layers.0.blocks.0.norm1.weight": X}),
    "ConvNeXt": (None, {"stages.0.blocks.0.conv_dw.weight": X, "stem.0.weight": X}),
    "a Perception Encoder": (VIT, {"attn_pool.latent": X, "norm_pre.weight": X}),
    "naming of its own code": (None, {"visual.attn_pool.probe": X, "visual.conv1.weight": X}),
    "TIPS or TIPSv2": (None, {"vision_encoder.patch_embed.proj.weight": X, "text_encoder.a": X}),
    "stem": (None, {"patch_embed.proj.0.weight": X, "blocks.0.norm1.weight": X}),
    "CLIP of OpenCLIP with an image tower of timm": (None, {"visual.trunk.a": X, "text.a": X}),
    "XCiT": (VIT, {"blocks.0.gamma1": X}),
    "torchvision's ViT, or SWAG's": (None, {"conv_proj.weight": X, "class_token": X}),
    "ResNet-C or -D": (RESNET, {"conv1.0.weight": X}),
    "averages before its shortcuts": (RESNET, {"layer2.0.downsample.2.weight": X}),
    "SE-ResNet": (RESNET, {"layer1.0.se.fc1.weight": X}),
    "ResNet with attention": (RESNET, {"layer1.0.eca.conv.weight": X}),
    "anti-aliased ResNet": (RESNET, {"layer2.0.conv2.1.filt": X}),
    "ResNeXt, with convolutions in groups": (RESNET, {
        "layer1.0.conv2.weight": np.ones((8, 2, 3, 3)),
    }),
    "wide ResNet": (RESNET, {"layer1.0.conv3.weight": np.ones((16, 8, 1, 1))}),
}  # fmt: skip
SAID = {
    "stem": "several convolutions in its stem",
    "XCiT": "BEiT",
    "BEiT with positions": "BEiT",
    "SAM": "tower of SAM",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_kinds_are_refused_with_what_to_do(tmp_path, kind):
    base, more = REFUSED[kind]
    tensors = (stored(base) if base else {}) | more
    with pytest.raises(UserError) as error:
        lift_jax.load_backbone(save(tmp_path / "a.safetensors", tensors))
    message = str(error.value)
    assert SAID.get(kind, kind) in message and "which is not supported. Give" in message
    assert "heads=" not in message and "\n" not in message


@pytest.mark.parametrize(("base", "change", "words"), [
    (VIT, lambda t: t.pop("cls_token"), "17 places and 0 tokens .*neither cls_token nor reg"),
    (VIT, lambda t: t.update(pos_embed=np.ones((1, 18, 128))), "18 places and 1 tokens"),
    (RESNET, lambda t: [t.pop(k) for k in list(t) if "running" in k], "GroupNorms in place"),
    (VIT, lambda t: [t.update({f"eye.{k}": t.pop(k)}) for k in list(t)] + [t.update(a=X)],
     "image tower under 'eye.' beside other tensors.*Save the tensors under that prefix alone"),
    ("clip_openai.safetensors", lambda t: [
        t.update({f"text.{k}": t.pop(k)}) for k in list(t) if not k.startswith("visual.")
    ], "without its open_clip_config.json.* beside it, name the file open_clip_model.safetensors"),
])  # fmt: skip
def test_what_is_missing_is_said(tmp_path, base, change, words):
    tensors = stored(base)
    change(tensors)
    with pytest.raises(UserError, match=words):
        lift_jax.load_backbone(save(tmp_path / "a.safetensors", tensors))


def test_an_archive_of_numpy(tmp_path):
    np.savez(tmp_path / "B_16.npz", **{"Transformer/encoder_norm/bias": X})
    with pytest.raises(UserError, match=r"archive of NumPy \(.npz\).*Give the same model"):
        lift_jax.load_backbone(tmp_path / "B_16.npz")


def test_unknown_names_come_before_unknown_heads(tmp_path):
    tensors = stored(VIT) | {"blocks.0.attn.q_norm.weight": X}
    file = save(tmp_path / "a.safetensors", tensors)
    with pytest.raises(UserError, match="no plain ViT of timm: it holds blocks.0.attn.q_norm"):
        lift_jax.load_backbone(file)


def test_what_the_weights_of_a_resnet_do_not_show(tmp_path):
    assumed = "taken as a plain ResNet, which its weights alone do not show"
    assert assumed in str(lift_jax.load_backbone(GOLDEN / RESNET).config.notes)
    folder = lift_jax.load_backbone(GOLDEN / "timm" / "timm_resnet")
    assert assumed not in str(folder.config.notes)
    for name in ("resnetblur50.bt_in1k", "resnetaa50", "resnet50_caffe", "dilated_resnet50"):
        file = shutil.copy(GOLDEN / RESNET, tmp_path / f"{name}.safetensors")
        with pytest.raises(UserError, match="in its name stands for a ResNet .* Give a plain"):
            lift_jax.load_backbone(file)


def test_the_right_weights_are_taken_of_several(golden, tmp_path):
    tower = stored(VIT)
    other = {name: tensor + 1 for name, tensor in tower.items()}
    for taken, left in [("state_dict", "model_ema"), ("teacher", "student"), ("model", "ema")]:
        file = tmp_path / f"{taken}.pth"
        save_torch({left: other, "epoch": 3, taken: tower}, file)
        found, notes = features(file, golden("clip_openai")["images"], heads=2)
        close(found, golden("timm_vit")["cls"])
        assert f"several state dicts ({taken}, {left}): {taken} is taken" in notes
