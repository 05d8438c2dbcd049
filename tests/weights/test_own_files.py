"""Tests of DINOv2's and DINOv3's own files: golden tensors of transformers, renamed.

The names and the layout are those of the classes DinoVisionTransformer in facebookresearch/dinov2
and facebookresearch/dinov3: queries, keys and values lie in one tensor, one after another.
"""

import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from support.paths import GOLDEN
from support.towers import close

import lift_jax
from lift_jax.errors import UserError
from lift_jax.weights import positions
from lift_jax.weights.files.source import Source
from lift_jax.weights.formats import families

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SATELLITE = ((0.43, 0.411, 0.296), (0.213, 0.156, 0.143))
# names of transformers -> own names
RENAMED = (
    (r"embeddings\.(cls_token|mask_token)", r"\1"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.patch_embeddings\.(projection\.)?(\w+)", r"patch_embed.proj.\2"),
    (r"(?:encoder\.)?layer\.(\d+)\.layer_scale(\d)\.lambda1", r"blocks.\1.ls\2.gamma"),
    (r"(?:encoder\.)?layer\.(\d+)\.attention\.(?:output\.dense|o_proj)\.(\w+)",
     r"blocks.\1.attn.proj.\2"),
    (r"(?:encoder\.)?layer\.(\d+)\.(norm\d|mlp\.fc\d)\.(\w+)", r"blocks.\1.\2.\3"),
    (r"encoder\.layer\.(\d+)\.mlp\.weights_in\.(\w+)", r"blocks.\1.mlp.w12.\2"),
    (r"encoder\.layer\.(\d+)\.mlp\.weights_out\.(\w+)", r"blocks.\1.mlp.w3.\2"),
    (r"layer\.(\d+)\.mlp\.gate_proj\.(\w+)", r"blocks.\1.mlp.w1.\2"),
    (r"layernorm\.(\w+)|norm\.(\w+)", r"norm.\1\2"),
)  # fmt: skip


def own(name: str) -> dict[str, np.ndarray]:
    """Returns the tensors of a golden folder under the own names of DINOv2 or DINOv3."""
    stored = safetensors.numpy.load_file(GOLDEN / name / "model.safetensors")
    v3 = name.startswith("dinov3")
    gated = "gated" in name
    tensors, parts = {}, {}
    up, down = ("w2", "w3") if gated else ("fc1", "fc2")
    for key, tensor in stored.items():
        if match := re.fullmatch(
            r"(?:encoder\.)?layer\.(\d+)\..*(query|key|value|[qkv]_proj)\.(\w+)", key
        ):
            parts.setdefault((match[1], match[3]), {})[match[2][0]] = tensor
        elif match := re.fullmatch(r"layer\.(\d+)\.mlp\.(up|down)_proj\.(\w+)", key):
            layer = up if match[2] == "up" else down
            tensors[f"blocks.{match[1]}.mlp.{layer}.{match[3]}"] = tensor
        elif key == "embeddings.register_tokens":
            tensors["storage_tokens" if v3 else "register_tokens"] = tensor
        else:
            for pattern, template in RENAMED:
                if match := re.fullmatch(pattern, key):
                    tensors[match.expand(template)] = tensor
                    break
            else:
                raise AssertionError(key)
    for (layer, kind), pieces in parts.items():
        # DINOv3 stores a bias of the keys, which its mask takes out
        pieces = {"k": np.full_like(pieces["q"], 7)} | pieces
        tensors[f"blocks.{layer}.attn.qkv.{kind}"] = np.concatenate([pieces[p] for p in "qkv"])
        if kind == "bias" and v3:
            mask = np.repeat(np.float16([1, 0, 1]), len(pieces["q"]))
            tensors[f"blocks.{layer}.attn.qkv.bias_mask"] = mask
    tensors["mask_token"] = tensors["mask_token"].reshape(1, -1)
    if v3:
        config = json.loads((GOLDEN / name / "config.json").read_text())
        n = config["hidden_size"] // config["num_attention_heads"] // 4
        tensors["rope_embed.periods"] = np.float32(config["rope_theta"] ** (np.arange(n) / n))
    return tensors


def save(file, tensors):
    plain = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    safetensors.numpy.save_file(plain, file)
    return file


def chunked(tensors):
    """Returns the tensors with the blocks in chunks of one, as in FSDP's training."""
    return {re.sub(r"^blocks\.(\d+)", r"blocks.\1.\1", name): t for name, t in tensors.items()}


# sizes that the small golden towers have, and the published ones do not
GIVEN = {
    "dinov2_hf": {"heads": 3}, "dinov2_registers": {"heads": 4, "eps": 1e-5},
    "dinov2_swiglu": {"heads": 2}, "dinov3": {"resolution": 32},
    "dinov3_gated": {"resolution": 32, "eps": 1e-6},
}  # fmt: skip


@pytest.mark.parametrize("name", GIVEN)
def test_features(golden, tmp_path, name):
    file = save(tmp_path / "weights.safetensors", own(name))
    backbone = lift_jax.load_backbone(file, **GIVEN[name])
    found = jax.jit(backbone.encode_image)(golden("clip_openai")["images"])
    close(found, golden(name)["cls"])
    vision = backbone.config.vision
    assert (vision.mean, vision.std) == IMAGENET
    title = "DINOv3" if name.startswith("dinov3") else "DINOv2"
    assert f"as in weights of {title}" in " ".join(backbone.config.notes)


def test_blocks_in_chunks_and_the_prefix_of_a_teacher(golden, tmp_path):
    tensors = {f"backbone.{k}": t for k, t in chunked(own("dinov2_hf")).items()}
    tensors["dino_head.last_layer.weight_g"] = np.ones(3)
    backbone = lift_jax.load_backbone(save(tmp_path / "a.safetensors", tensors), heads=3)
    found = jax.jit(backbone.encode_image)(golden("clip_openai")["images"])
    close(found, golden("dinov2_hf")["cls"])
    assert "the rest is left out (1, like dino_head.last_layer" in " ".join(backbone.config.notes)


def test_the_last_norm_of_cls(golden, tmp_path):
    tensors = own("dinov3")
    for part in ("weight", "bias"):
        tensors[f"cls_norm.{part}"] = tensors[f"norm.{part}"]
        tensors[f"norm.{part}"] = tensors[f"local_cls_norm.{part}"] = np.full(32, 9, np.float16)
    backbone = lift_jax.load_backbone(save(tmp_path / "a.safetensors", tensors), resolution=32)
    found = jax.jit(backbone.encode_image)(golden("clip_openai")["images"])
    close(found, golden("dinov3")["cls"])


@pytest.mark.parametrize(("name", "statistics"), [
    ("dinov3_vitl16_pretrain_sat493m-eadcf0ff.pth", SATELLITE), ("dinov3_vitl16.pth", IMAGENET),
])  # fmt: skip
def test_dinov3_of_satellite_images(tmp_path, name, statistics):
    file = save(tmp_path / name, own("dinov3"))
    vision = lift_jax.load_backbone(file).config.vision
    assert (vision.mean, vision.std, vision.resolution) == (*statistics, 224)


@pytest.mark.parametrize(("width", "name", "statistics"), [
    (1024, "a.pth", SATELLITE), (4096, "a.pth", IMAGENET),  # the local norm of the ViT-7B
    (1024, "dinov3_vitl16_lvd1689m.pth", IMAGENET),
])  # fmt: skip
def test_satellite_images_by_the_norm_of_local_crops(width, name, statistics):
    tensors = {"rope_embed.periods": np.ones(16), "local_cls_norm.weight": np.ones(width)}
    found = families.statistics(Source(Path(name), name, tensors=tensors))
    assert (found["mean"], found["std"]) == statistics


@pytest.mark.parametrize(("base", "dtype"), [(100, np.float32), (100, "bfloat16"), (50, "f4")])
def test_the_base_by_the_periods(tmp_path, base, dtype):
    tensors = own("dinov3")
    tensors["rope_embed.periods"] = np.float32(base ** (np.arange(4) / 4)).astype(dtype)
    vision = lift_jax.load_backbone(save(tmp_path / "a.safetensors", tensors)).config.vision
    assert (vision.rope, vision.heads) == (base, 2)


def change(name, value):
    return lambda tensors: tensors.update({name: np.float32(value)})


@pytest.mark.parametrize(("alter", "words"), [
    (change("rope_embed.periods", [1, 2, 3, 4]), "periods of 4 numbers; expected base"),
    (change("rope_embed.periods", [1, np.nan, 3, 4]), "periods of 4 numbers; expected base"),
    (change("rope_embed.periods", [1, 2, 3]), "with 4n the width of a head"),
    (change("blocks.1.attn.qkv.bias_mask", np.ones(96)), "bias_mask is not 1 for queries"),
    (change("blocks.1.attn.qkv.bias_mask", np.full(96, np.nan)), "bias_mask is not 1 for"),
    (lambda t: t.pop("norm.bias"), "missing     norm.bias"),
    (lambda t: t.pop("blocks.1.attn.qkv.weight"), "missing     blocks.1.attn.qkv.weight"),
    (change("blocks.0.attn.q_norm.weight", np.ones(4)), "unexpected  blocks.0.attn.q_norm"),
])  # fmt: skip
def test_wrong_files(tmp_path, alter, words):
    tensors = own("dinov3")
    alter(tensors)
    with pytest.raises(UserError, match=words):
        lift_jax.load_backbone(save(tmp_path / "a.safetensors", tensors))


def test_heads_of_dinov2_are_64_wide(tmp_path):
    file = save(tmp_path / "a.safetensors", own("dinov2_hf"))
    with pytest.raises(UserError, match="heads of its ViT of width 48. Give heads="):
        lift_jax.load_backbone(file)


def test_positions_are_interpolated_as_in_dino():
    """By hand: DINO samples the grid at (i + 0.5) * 2 / 3.1 - 0.5 for three places out of two."""
    grid = np.float32([0, 0, 1, 1]).reshape(4, 1)  # rows 0 and 1
    found = positions.resize(np.concatenate([[[5.0]], grid]), 3, 1, "offset")[:, 0]

    def keys(x):  # the cubic kernel with a = -0.75
        x, a = abs(x), -0.75
        near, far = (a + 2) * x**3 - (a + 3) * x**2 + 1, a * (x**3 - 5 * x**2 + 8 * x - 4)
        return near if x <= 1 else far if x < 2 else 0

    expected = []
    for i in range(3):
        centre = (i + 0.5) * 2 / 3.1 - 0.5
        expected.append(sum(keys(centre - j) for j in range(1, 5)))  # rows from 1 on hold 1
    assert found[0] == 5
    np.testing.assert_allclose(found[1:].reshape(3, 3)[:, 0], expected, atol=1e-6)
