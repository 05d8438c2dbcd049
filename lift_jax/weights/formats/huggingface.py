"""Hugging Face's format of CLIP and MetaCLIP 2: `config.json`, and weights as transformers names.

MetaCLIP 2 has CLIP's towers and another tokenizer, whose end token is 2.
"""

from collections.abc import Mapping
from typing import Any

from lift_jax.errors import UserError, shown
from lift_jax.models.backbone import BackboneConfig
from lift_jax.models.text import TextConfig
from lift_jax.models.vit.config import CLIP_MEAN, CLIP_STD, VisionConfig
from lift_jax.weights.files.source import CONFIG, PREPROCESSOR, Source
from lift_jax.weights.formats import declared
from lift_jax.weights.rename import Table, linear, norm

SIZES: tuple[str, ...] = ()

# the model types of image towers without a text tower
ALONE = (
    "clip_vision_model", "metaclip_2_vision_model", "siglip_vision_model", "siglip2_vision_model",
)  # fmt: skip
# the activations' names in transformers -> ours
ACTIVATIONS = {
    "quick_gelu": "quick_gelu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
}

_LINEARS = (
    ("q", "self_attn.q_proj"),
    ("k", "self_attn.k_proj"),
    ("v", "self_attn.v_proj"),
    ("out", "self_attn.out_proj"),
    ("fc1", "mlp.fc1"),
    ("fc2", "mlp.fc2"),
)


def _blocks(ours: str, theirs: str) -> Table:
    """Returns the rules of a tower's blocks."""
    block, name = rf"{ours}/blocks/(\d+)", rf"{theirs}.encoder.layers.\1"
    rules = [
        *norm(f"{block}/ln1", f"{name}.layer_norm1"),
        *norm(f"{block}/ln2", f"{name}.layer_norm2"),
    ]
    for a, b in _LINEARS:
        rules += linear(f"{block}/{a}", f"{name}.{b}")
    return rules


# the weights that CLIP and SigLIP have in common
TOWERS: Table = [
    ("visual/positions", "vision_model.embeddings.position_embedding.weight", "same"),
    *_blocks("visual", "vision_model"),
    *norm("visual/ln_post", "vision_model.post_layernorm"),
    ("text/tokens", "text_model.embeddings.token_embedding.weight", "same"),
    ("text/positions", "text_model.embeddings.position_embedding.weight", "same"),
    *_blocks("text", "text_model"),
    *norm("text/ln_final", "text_model.final_layer_norm"),
]
TABLE: Table = [
    *TOWERS,
    ("visual/stem/linear/kernel", "vision_model.embeddings.patch_embedding.weight", "stem"),
    ("visual/cls", "vision_model.embeddings.class_embedding", "same"),
    *norm("visual/ln_pre", "vision_model.pre_layrnorm"),  # their spelling
    ("image_proj", "visual_projection.weight", "linear"),
    ("text_proj", "text_projection.weight", "linear"),
    ("logit_scale", "logit_scale", "same"),
]
POSITION_IDS = r".*\.embeddings\.position_ids"  # a constant that old transformers stored
# an image tower alone may still have the projection into the space of images and texts
IGNORED = (POSITION_IDS, r"visual_projection\.weight", r"classifier\..*")

# The defaults of transformers, which leaves fields with these values out: OpenAI's ViT-B/32.
_VISION = {
    "image_size": 224, "patch_size": 32, "hidden_size": 768, "num_hidden_layers": 12,
    "num_attention_heads": 12, "intermediate_size": 3072, "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5, "num_channels": 3,
}  # fmt: skip
_TEXT = {
    "vocab_size": 49408, "max_position_embeddings": 77, "hidden_size": 512,
    "num_hidden_layers": 12, "num_attention_heads": 8, "intermediate_size": 2048,
    "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "eos_token_id": 49407,
}  # fmt: skip


def recognises(source: Source) -> bool:
    """Returns True for CLIP's model types, also for an image tower alone."""
    kind = str(source.config.get("model_type"))
    return kind.removesuffix("_vision_model") in ("clip", "metaclip_2")


def table(source: Source) -> Table:
    """Returns the rename table of both towers, or of an image tower alone."""
    return of_tower(source, TABLE)


def of_tower(source: Source, rules: Table) -> Table:
    """Returns the rules for the names of this source.

    transformers 5 saves an image tower alone without its prefix "vision_model.".
    """
    prefix = "vision_model."
    if not is_alone(source) or any(name.startswith(prefix) for name in source.tensors):
        return rules
    return [(ours, theirs.removeprefix(prefix), layout) for ours, theirs, layout in rules]


def is_alone(source: Source) -> bool:
    """Returns True for an image tower without a text tower."""
    return source.config.get("model_type") in ALONE or classifies(source)


def classifies(source: Source) -> bool:
    """Returns True for an image tower that was saved with a classifier in place of the texts."""
    return "ForImageClassification" in str(source.config.get("architectures"))


def tower_config(source: Source) -> dict[str, Any]:
    """Returns config.json with the settings of the image tower under "vision_config"."""
    whole = source.config
    return {"vision_config": whole} if whole.get("model_type") in ALONE else whole


# of CLIPForImageClassification and SiglipForImageClassification
CLASSIFIES = (
    "The image tower of a classifier is taken: its feature is that of CLIP or SigLIP, and not the "
    "mean of the patches, which the classifier that is left out takes."
)


def resize(source: Source) -> str:
    """Returns the interpolation of position embeddings in transformers."""
    return "plain"


def read_config(source: Source) -> BackboneConfig:
    """Reads the sizes of a whole CLIP, or of an image tower alone, from config.json.

    Raises UserError for settings that our towers do not support.
    """
    where, raw = says(source), tower_config(source)

    def values(tower: str, defaults: dict[str, Any]) -> dict[str, Any]:
        # old files have a tower's settings under *_dict as well, and only these count
        given = declared.part(where, raw, f"{tower}_dict") or declared.part(where, raw, tower)
        return declared.read(where, given, defaults, f"{tower}.")

    v, t = values("vision_config", _VISION), values("text_config", _TEXT)
    resolution, notes = declared.whole_patches(where, v["image_size"], v["patch_size"])
    if v["num_channels"] != 3:
        raise UserError(f"{where} vision_config.num_channels is {v['num_channels']}; expected 3.")
    vision = VisionConfig(
        resolution, v["patch_size"], **tower_sizes(where, "vision_config", v),
        **image_statistics(source, CLIP_MEAN, CLIP_STD),
    )  # fmt: skip
    if is_alone(source):
        return BackboneConfig(vision, notes=(*notes, *(CLASSIFIES,) * classifies(source)))
    return BackboneConfig(
        vision=vision,
        text=TextConfig(
            vocab=t["vocab_size"], context=t["max_position_embeddings"],
            **tower_sizes(where, "text_config", t),
            # 2 is a wrong value in OpenAI's own files; transformers then pools the largest id
            eot=None
            if t["eos_token_id"] == 2 and raw["model_type"] == "clip"
            else t["eos_token_id"],
        ),
        embed=declared.read(where, raw, {"projection_dim": 512})["projection_dim"],
        notes=notes,
    )  # fmt: skip


def says(source: Source) -> str:
    """Returns the beginning of a message on a value in config.json."""
    return f"{source.where}: by its {CONFIG}"


def tower_sizes(where: str, tower: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings that image and text towers share, under our names.

    Raises UserError for an unknown activation, and if the width is not a multiple of the heads.
    """
    act, width, heads = (
        values[name] for name in ("hidden_act", "hidden_size", "num_attention_heads")
    )
    if act not in ACTIVATIONS:
        raise UserError(
            f"{where} {tower}.hidden_act is {shown(act)}; expected one of {', '.join(ACTIVATIONS)}."
        )
    if width % heads:
        raise UserError(f"{where} {tower}.hidden_size {width} is not a multiple of {heads} heads.")
    return {
        "width": width, "layers": values["num_hidden_layers"], "heads": heads,
        "mlp": values["intermediate_size"], "activation": ACTIVATIONS[act],
        "eps": values["layer_norm_eps"],
    }  # fmt: skip


def image_statistics(source: Source, mean: Any, std: Any) -> dict[str, Any]:
    """Returns mean and std by preprocessor_config.json, or the given ones if it has none.

    Raises UserError for anything but three numbers each.
    """
    where = f"{source.where}: by its {PREPROCESSOR}"
    return declared.statistics(where, source.images, ("image_mean", "image_std"), mean, std)
