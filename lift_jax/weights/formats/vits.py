"""Hugging Face's format of image towers alone: ViT, MAE, DINOv2 (also with registers), DINOv3.

The feature is CLS after the last LayerNorm. The pooler and the classifier on it, and the mask token
and decoder of the pre-training, are left out.
"""

from typing import Any

import numpy as np

from lift_jax.errors import UserError, shown
from lift_jax.models.backbone import BackboneConfig
from lift_jax.models.resnet import IMAGENET_MEAN, IMAGENET_STD
from lift_jax.models.vit.config import VisionConfig
from lift_jax.weights.files.source import Source
from lift_jax.weights.formats import declared, families
from lift_jax.weights.formats.huggingface import ACTIVATIONS, image_statistics, says
from lift_jax.weights.rename import Table, norm

SIZES: tuple[str, ...] = ()  # config.json states all sizes

# the settings that are read and their defaults, by model type
_VIT = {
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 3072, "hidden_act": "gelu", "layer_norm_eps": 1e-12, "image_size": 224,
    "patch_size": 16, "num_channels": 3, "qkv_bias": True,
}  # fmt: skip
_DINOV2 = _VIT | {
    "layer_norm_eps": 1e-6, "patch_size": 14, "mlp_ratio": 4.0, "use_swiglu_ffn": False,
}  # fmt: skip
_DINOV3 = _VIT | {
    "hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536,
    "layer_norm_eps": 1e-5, "num_register_tokens": 0, "rope_theta": 100.0, "use_gated_mlp": False,
    "query_bias": True, "key_bias": False, "value_bias": True, "proj_bias": True, "mlp_bias": True,
}  # fmt: skip
DEFAULTS: dict[str, dict[str, Any]] = {
    "vit": _VIT,
    "vit_mae": _VIT,
    "dinov2": _DINOV2,
    "dinov2_with_registers": _DINOV2 | {"patch_size": 16, "num_register_tokens": 4},
    "dinov3_vit": _DINOV3,
}

# switches in config.json -> our linear layers that have no bias if the switch is off
BIASES = {
    "qkv_bias": ("q", "k", "v"), "query_bias": ("q",), "key_bias": ("k",), "value_bias": ("v",),
    "proj_bias": ("out",), "mlp_bias": ("gate", "fc1", "fc2"),
}  # fmt: skip

# names of stem, blocks and last LayerNorm, by the family, with which the model type begins
_PARTS = {
    "vit": ("embeddings.patch_embeddings.projection", "encoder.layer", "layernorm"),
    "dinov2": ("embeddings.patch_embeddings.projection", "encoder.layer", "layernorm"),
    "dinov3": ("embeddings.patch_embeddings", "layer", "norm"),
}
# our layers of a block -> their names; ":i/n" is the i-th of n parts
_ATTENTION = {
    "q": "attention.attention.query", "k": "attention.attention.key",
    "v": "attention.attention.value", "out": "attention.output.dense",
}  # fmt: skip
_LAYERS = {
    "vit": _ATTENTION | {
        "ln1": "layernorm_before", "ln2": "layernorm_after", "fc1": "intermediate.dense",
        "fc2": "output.dense",
    },
    "dinov2": _ATTENTION | {"ln1": "norm1", "ln2": "norm2", "fc1": "mlp.fc1", "fc2": "mlp.fc2"},
    "dinov3": {
        "ln1": "norm1", "ln2": "norm2", "q": "attention.q_proj", "k": "attention.k_proj",
        "v": "attention.v_proj", "out": "attention.o_proj", "gate": "mlp.gate_proj",
        "fc1": "mlp.up_proj", "fc2": "mlp.down_proj",
    },
}  # fmt: skip
_SWIGLU = {"gate": "mlp.weights_in:0/2", "fc1": "mlp.weights_in:1/2", "fc2": "mlp.weights_out"}

_TOWER = r"((vit|dinov2|dinov2_with_registers)\.)?"
IGNORED = (
    rf"{_TOWER}pooler\..*",
    r"classifier\..*",
    r"decoder\..*",  # of MAE
    # A tower without registers may store an empty array. `read_config` refuses any other array.
    rf"{_TOWER}embeddings\.(mask_token|register_tokens)",
    r"rope_embeddings\.inv_freq",  # computed from rope_theta
)


def recognises(source: Source) -> bool:
    """Returns True for the model types of these towers."""
    return source.config.get("model_type") in [*DEFAULTS]


def _settings(source: Source) -> dict[str, Any]:
    """Returns the settings in config.json, with the defaults of its model type."""
    return declared.read(says(source), source.config, DEFAULTS[source.config["model_type"]])


def _prefix(source: Source) -> str:
    """Returns the beginning of the tower's names: "vit." or "dinov2.", alone none."""
    prefix = f"{source.config['model_type'].removesuffix('_mae')}."
    return prefix if any(name.startswith(prefix) for name in source.tensors) else ""


def resize(source: Source) -> str:
    """Returns the interpolation of position embeddings in transformers.

    It has antialiasing for DINOv2 with registers alone.
    """
    return "antialias" if source.config["model_type"] == "dinov2_with_registers" else "plain"


def table(source: Source) -> Table:
    """Returns the rename table for the source's family, kind of MLP and prefix."""
    family, before = source.config["model_type"].partition("_")[0], _prefix(source)
    stem, blocks, last = _PARTS[family]
    ours, theirs = r"visual/blocks/(\d+)", rf"{before}{blocks}.\1"
    rules: Table = [
        ("visual/stem/linear/kernel", f"{before}{stem}.weight", "stem"),
        ("visual/stem/linear/bias", f"{before}{stem}.bias", "same"),
        ("visual/cls", f"{before}embeddings.cls_token", "lead2"),
        ("visual/registers", f"{before}embeddings.register_tokens", "lead1"),
        ("visual/positions", f"{before}embeddings.position_embeddings", "lead1"),
        *norm("visual/ln_post", f"{before}{last}"),
        *((f"{ours}/scale{i}", f"{theirs}.layer_scale{i}.lambda1", "same") for i in (1, 2)),
    ]
    swiglu = _settings(source).get("use_swiglu_ffn")
    for layer, name in (_LAYERS[family] | (_SWIGLU if swiglu else {})).items():
        if layer.startswith("ln"):
            rules += norm(f"{ours}/{layer}", f"{theirs}.{name}")
            continue
        name, colon, part = name.partition(":")
        rules += [
            (f"{ours}/{layer}/kernel", f"{theirs}.{name}.weight", f"linear{colon}{part}"),
            (f"{ours}/{layer}/bias", f"{theirs}.{name}.bias", f"same{colon}{part}"),
        ]
    return rules


def mlp_width(width: int, ratio: float, swiglu: bool) -> int:
    """Returns the width of DINOv2's MLP; with SwiGLU two thirds, rounded up to a multiple of 8."""
    wide = int(width * ratio)
    return (int(wide * 2 / 3) + 7) // 8 * 8 if swiglu else wide


def read_config(source: Source) -> BackboneConfig:
    """Reads the sizes from config.json.

    Raises UserError, which names the setting, for a value that our tower does not support.
    """
    kind, c, where = source.config["model_type"], _settings(source), says(source)

    def expect(holds: bool, key: str, expected: str) -> None:
        if not holds:
            raise UserError(f"{where} {key} is {shown(c.get(key))}; expected {expected}.")

    width, heads, mlp, activation = (
        c[key] for key in ("hidden_size", "num_attention_heads", "intermediate_size", "hidden_act")
    )
    if "mlp_ratio" in c:
        mlp = mlp_width(width, c["mlp_ratio"], c["use_swiglu_ffn"])
    if c.get("use_swiglu_ffn"):
        activation = "silu"
    rope, registers = c.get("rope_theta", 0.0), c.get("num_register_tokens", 0)
    stored = source.tensors.get(f"{_prefix(source)}embeddings.register_tokens", np.empty(0))
    multiple = 4 if rope else 1  # rotary positions need heads whose width is a multiple of 4
    expect(c["num_channels"] == 3, "num_channels", "3")
    expect(
        width % (multiple * heads) == 0, "hidden_size", f"a multiple of {multiple} x {heads} heads"
    )
    expect(activation in ACTIVATIONS, "hidden_act", f"one of {', '.join(ACTIVATIONS)}")
    expect(registers or not stored.size, "num_register_tokens", f"that of {stored.shape} stored")
    resolution, notes = declared.whole_patches(where, c["image_size"], c["patch_size"])
    default = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    if kind == "vit":  # which DINO, DeiT and others have, too
        default = families.statistics(source)
    off = [key for key in BIASES if not c.get(key, True)]
    vision = VisionConfig(
        resolution, c["patch_size"], width, c["num_hidden_layers"], heads, mlp,
        ACTIVATIONS[activation], c["layer_norm_eps"], **image_statistics(source, **default),
        stem_bias=True, ln_pre=False, registers=registers, rope=rope,
        layer_scale=not kind.startswith("vit"),
        gated=bool(c.get("use_swiglu_ffn") or c.get("use_gated_mlp")),
        unbiased=tuple(layer for key in off for layer in BIASES[key]),
    )  # fmt: skip
    return BackboneConfig(vision, notes=notes)
