"""CLIP in Hugging Face's layout: `config.json`, `model.safetensors`, tokenizer files."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.numpy

from lift_jax.errors import UserError
from lift_jax.models.clip import ClipConfig
from lift_jax.models.layers import ACTIVATIONS
from lift_jax.models.text import TextConfig
from lift_jax.models.vit import CLIP_MEAN, CLIP_STD, VisionConfig
from lift_jax.weights.rename import Table, linear, norm, to_theirs

WEIGHTS, CONFIG, PREPROCESSOR = "model.safetensors", "config.json", "preprocessor_config.json"

_TOWERS = (("visual", "vision_model"), ("text", "text_model"))
_LINEARS = (
    ("q", "self_attn.q_proj"),
    ("k", "self_attn.k_proj"),
    ("v", "self_attn.v_proj"),
    ("out", "self_attn.out_proj"),
    ("fc1", "mlp.fc1"),
    ("fc2", "mlp.fc2"),
)


def _blocks(ours: str, theirs: str) -> Table:
    block, name = rf"{ours}/blocks/(\d+)", rf"{theirs}.encoder.layers.\1"
    rules = [
        *norm(f"{block}/ln1", f"{name}.layer_norm1"),
        *norm(f"{block}/ln2", f"{name}.layer_norm2"),
    ]
    for a, b in _LINEARS:
        rules += linear(f"{block}/{a}", f"{name}.{b}")
    return rules


TABLE: Table = [
    ("visual/stem/linear/kernel", "vision_model.embeddings.patch_embedding.weight", "stem"),
    ("visual/cls", "vision_model.embeddings.class_embedding", "same"),
    ("visual/positions", "vision_model.embeddings.position_embedding.weight", "same"),
    *norm("visual/ln_pre", "vision_model.pre_layrnorm"),  # their spelling
    *norm("visual/ln_post", "vision_model.post_layernorm"),
    ("text/tokens", "text_model.embeddings.token_embedding.weight", "same"),
    ("text/positions", "text_model.embeddings.position_embedding.weight", "same"),
    *norm("text/ln_final", "text_model.final_layer_norm"),
    *(rule for ours, theirs in _TOWERS for rule in _blocks(ours, theirs)),
    ("image_proj", "visual_projection.weight", "linear"),
    ("text_proj", "text_projection.weight", "linear"),
    ("logit_scale", "logit_scale", "same"),
]
# index buffers that old transformers versions stored beside the weights
IGNORED = (r".*\.embeddings\.position_ids",)


def _json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as e:
        raise UserError(f"Cannot read {path} as JSON ({e}). Get the file again.") from e


def read_config(folder: Path) -> ClipConfig:
    """Reads the sizes from config.json. Raises UserError for another kind of model."""
    path = folder / CONFIG
    raw = _json(path)
    if raw.get("model_type") != "clip":
        raise UserError(
            f"{path} describes a model of type {raw.get('model_type')!r}; expected 'clip', a CLIP "
            "with a ViT image tower."
        )
    # transformers leaves fields out that have its default: OpenAI's ViT-B/32
    vision_default = {
        "image_size": 224, "patch_size": 32, "hidden_size": 768, "num_hidden_layers": 12,
        "num_attention_heads": 12, "intermediate_size": 3072, "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
    }  # fmt: skip
    text_default = {
        "vocab_size": 49408, "max_position_embeddings": 77, "hidden_size": 512,
        "num_hidden_layers": 12, "num_attention_heads": 8, "intermediate_size": 2048,
        "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "eos_token_id": 49407,
    }  # fmt: skip
    # old files keep a copy of each tower's settings under *_config_dict, which wins in transformers
    v = vision_default | (raw.get("vision_config") or {}) | (raw.get("vision_config_dict") or {})
    t = text_default | (raw.get("text_config") or {}) | (raw.get("text_config_dict") or {})
    for tower, values in (("vision_config", v), ("text_config", t)):
        if values["hidden_act"] not in ACTIVATIONS:
            raise UserError(
                f"{path}: {tower}.hidden_act is {values['hidden_act']!r}; expected one of "
                f"{', '.join(ACTIVATIONS)}."
            )
        if values["hidden_size"] % values["num_attention_heads"]:
            raise UserError(
                f"{path}: {tower}.hidden_size {values['hidden_size']} is not a multiple of its "
                f"{values['num_attention_heads']} heads."
            )
    images = _json(folder / PREPROCESSOR) if (folder / PREPROCESSOR).exists() else {}
    return ClipConfig(
        vision=VisionConfig(
            resolution=v["image_size"], patch=v["patch_size"], width=v["hidden_size"],
            layers=v["num_hidden_layers"], heads=v["num_attention_heads"],
            mlp=v["intermediate_size"], activation=v["hidden_act"], eps=v["layer_norm_eps"],
            mean=tuple(images.get("image_mean", CLIP_MEAN)),
            std=tuple(images.get("image_std", CLIP_STD)),
        ),
        text=TextConfig(
            vocab=t["vocab_size"], context=t["max_position_embeddings"], width=t["hidden_size"],
            layers=t["num_hidden_layers"], heads=t["num_attention_heads"],
            mlp=t["intermediate_size"], activation=t["hidden_act"], eps=t["layer_norm_eps"],
            # 2 is a wrong value in OpenAI's own files, which transformers reads as "largest id"
            eot=None if t["eos_token_id"] == 2 else t["eos_token_id"],
        ),
        embed=raw.get("projection_dim", 512),
    )  # fmt: skip


def save(folder: Path, config: ClipConfig, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes config.json, model.safetensors (dtype as given) and preprocessor_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    v, t = config.vision, config.text

    def tower(c: VisionConfig | TextConfig, **more: object) -> dict:
        return more | {
            "hidden_size": c.width, "num_hidden_layers": c.layers, "num_attention_heads": c.heads,
            "intermediate_size": c.mlp, "hidden_act": c.activation, "layer_norm_eps": c.eps,
            "projection_dim": config.embed,
        }  # fmt: skip

    text = tower(t, vocab_size=t.vocab, max_position_embeddings=t.context)
    text["eos_token_id"] = 2 if t.eot is None else t.eot
    contents = {
        CONFIG: {
            "architectures": ["CLIPModel"],
            "model_type": "clip",
            "projection_dim": config.embed,
            "vision_config": tower(v, image_size=v.resolution, patch_size=v.patch),
            "text_config": text,
        },
        PREPROCESSOR: {
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": v.resolution},
            "crop_size": {"height": v.resolution, "width": v.resolution},
            "image_mean": list(v.mean),
            "image_std": list(v.std),
        },
    }
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    safetensors.numpy.save_file(to_theirs(arrays, TABLE), folder / WEIGHTS, {"format": "pt"})
