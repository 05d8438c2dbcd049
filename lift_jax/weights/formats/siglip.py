"""SigLIP's format: SigLIP and SigLIP 2 in Hugging Face's layout.

The model type "siglip" takes images of one size; most of Google's SigLIP 2 have it too. The type
"siglip2" is NaFlex, which takes images of any shape. Here they are squares, with one patch for each
of its position embeddings.
"""

import math
from typing import Any

from lift_jax.errors import UserError
from lift_jax.models.backbone import BackboneConfig
from lift_jax.models.text import TextConfig
from lift_jax.models.vit.config import VisionConfig
from lift_jax.weights.files.source import Source
from lift_jax.weights.formats import declared
from lift_jax.weights.formats.huggingface import (
    CLASSIFIES,
    POSITION_IDS,
    TOWERS,
    classifies,
    image_statistics,
    is_alone,
    of_tower,
    says,
    tower_config,
    tower_sizes,
)
from lift_jax.weights.rename import Table, linear, norm

SIZES: tuple[str, ...] = ()
IGNORED = (POSITION_IDS, r"classifier\..*")

# the defaults of transformers, which leaves fields with these values out
_TOWER: dict[str, Any] = {
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 3072, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6,
}  # fmt: skip
_VISION = _TOWER | {
    "image_size": 224, "patch_size": 16, "num_patches": 256, "num_channels": 3,
    "vision_use_head": True,
}  # fmt: skip
_TEXT = _TOWER | {"vocab_size": 32000, "max_position_embeddings": 64}


def recognises(source: Source) -> bool:
    """Returns True for SigLIP's model types, also for an image tower alone."""
    kind = str(source.config.get("model_type"))
    return kind.removesuffix("_vision_model") in ("siglip", "siglip2")


def _naflex(source: Source) -> bool:
    """Returns True for NaFlex."""
    return source.config["model_type"].startswith("siglip2")


def table(source: Source) -> Table:
    """Returns the rename table of both towers, or of an image tower alone."""
    # NaFlex's patch embedding is a linear layer over (row, column, channel), as our stem is
    name = "vision_model.embeddings.patch_embedding"
    pool, head = "visual/pool", "vision_model.head"
    rules = [
        *TOWERS,
        ("visual/stem/linear/kernel", f"{name}.weight", "linear" if _naflex(source) else "stem"),
        ("visual/stem/linear/bias", f"{name}.bias", "same"),
        (f"{pool}/probe", f"{head}.probe", "lead2"),
        *linear(f"{pool}/out", f"{head}.attention.out_proj"),
        *norm(f"{pool}/ln", f"{head}.layernorm"),
        *linear(f"{pool}/fc1", f"{head}.mlp.fc1"),
        *linear(f"{pool}/fc2", f"{head}.mlp.fc2"),
        *linear("text/head", "text_model.head"),
        ("logit_scale", "logit_scale", "lead1"),
        ("logit_bias", "logit_bias", "lead1"),
    ]
    for i, a in enumerate("qkv"):
        rules.append((f"{pool}/{a}/kernel", f"{head}.attention.in_proj_weight", f"linear:{i}/3"))
        rules.append((f"{pool}/{a}/bias", f"{head}.attention.in_proj_bias", f"same:{i}/3"))
    return of_tower(source, rules)


def resize(source: Source) -> str:
    """Returns the interpolation of position embeddings: linear for NaFlex."""
    return "linear" if _naflex(source) else "plain"


def read_config(source: Source) -> BackboneConfig:
    """Reads the sizes of both towers, or of an image tower alone, from config.json.

    Raises UserError for settings that our towers do not support.
    """
    where, raw = says(source), tower_config(source)

    def values(tower: str, defaults: dict[str, Any]) -> dict[str, Any]:
        given = {k: x for k, x in declared.part(where, raw, tower).items() if x is not None}
        return declared.read(where, given, defaults, f"{tower}.")

    v, t = values("vision_config", _VISION), values("text_config", _TEXT)
    patch = v["patch_size"]
    if _naflex(source):
        grid = math.isqrt(v["num_patches"])
        if grid**2 != v["num_patches"]:
            raise UserError(
                f"{where} vision_config.num_patches is {v['num_patches']}; expected a square."
            )
        resolution = grid * patch
        notes = (f"NaFlex takes images of any shape; here they have {resolution} pixels a side.",)
    else:
        resolution, notes = declared.whole_patches(where, v["image_size"], patch)
    for field, expected in (("num_channels", 3), ("vision_use_head", True)):
        if v[field] != expected:
            raise UserError(f"{where} vision_config.{field} is {v[field]}; expected {expected}.")
    vision = VisionConfig(
        resolution, patch, **tower_sizes(where, "vision_config", v),
        **image_statistics(source, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        pool="map", stem_bias=True, ln_pre=False,
    )  # fmt: skip
    if is_alone(source):
        return BackboneConfig(vision, notes=(*notes, *(CLASSIFIES,) * classifies(source)))
    head = values("text_config", {"projection_size": t["hidden_size"]})["projection_size"]
    if head != v["hidden_size"]:
        raise UserError(
            f"{where} text features are {head} wide (text_config.projection_size) and image "
            f"features {v['hidden_size']} (vision_config.hidden_size); expected the same."
        )
    return BackboneConfig(
        vision=vision,
        text=TextConfig(
            vocab=t["vocab_size"], context=t["max_position_embeddings"],
            **tower_sizes(where, "text_config", t),
            pool="last", head=head,
        ),
        embed=head, projections=(), logit_bias=True, notes=notes,
    )  # fmt: skip
