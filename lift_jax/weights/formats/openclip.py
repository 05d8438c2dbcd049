"""OpenCLIP's format: `open_clip_config.json`, and weights in OpenAI's naming.

Of a model whose text tower is another than CLIP's (CoCa, CLIPA, texts of Hugging Face) the image
tower alone is read, which a note says. The image tower may be timm's PE-Core.
"""

from typing import Any

import numpy as np

from lift_jax.errors import UserError, shown
from lift_jax.models.backbone import BackboneConfig, Vision
from lift_jax.models.resnet import ResNetConfig
from lift_jax.models.text import TextConfig
from lift_jax.models.vit.config import CLIP_MEAN, CLIP_STD, VisionConfig
from lift_jax.weights.files.source import OPEN_CLIP, Source
from lift_jax.weights.formats import declared, openai, timm
from lift_jax.weights.rename import Table, linear, norm

SIZES: tuple[str, ...] = ()
# the captions' tower of a CoCa, and PE-Core's projection, of which the bias is zero
IGNORED = (*openai.IGNORED, r"text_decoder\..*", r"visual\.trunk\.head\..*")
# the names beside an image tower, which are left out with the text tower
TEXTS = (
    r"(text|transformer|token_embedding|ln_final)\..*", "positional_embedding",
    "text_projection", "logit_scale", "logit_bias",
)  # fmt: skip

# The options that are accepted in each part of the config. The first line of each part has those
# that are read. The others have no effect on the features: they are for training or the tokenizer,
# or belong to an option that is off.
_KNOWN = {
    "model_cfg": """embed_dim vision_cfg text_cfg quick_gelu init_logit_bias multimodal_cfg
        custom_text init_logit_scale output_dict""",
    "vision_cfg": """layers width head_width mlp_ratio patch_size image_size ls_init_value no_ln_pre
        attn_pooler_heads final_ln_after_pool
        patch_dropout attn_pooler_queries output_tokens timm_model_pretrained
        timm_pool timm_proj timm_proj_bias timm_drop timm_drop_path""",
    "text_cfg": """context_length vocab_size width heads layers mlp_ratio ls_init_value
        pad_id eos_id output_tokens hf_tokenizer_name hf_model_pretrained hf_proj_type
        hf_pooler_type""",
}
# The values of other options that mean the plain towers, apart from null, false, 0 and "".
_PLAIN = [
    ("vision_cfg", "block_type", "default"),
    ("vision_cfg", "pool_type", "tok"),
    ("vision_cfg", "pool_type", "avg"),
    ("vision_cfg", "attentional_pool", True),
    ("vision_cfg", "pos_embed_type", "learnable"),
    ("text_cfg", "block_type", "default"),
    ("text_cfg", "pool_type", "argmax"),
    ("text_cfg", "proj_type", "linear"),
]
# OpenCLIP's defaults
_RESNET = {"width": 64, "head_width": 64, "image_size": 224}
_VIT = {
    "layers": 12, "width": 768, "head_width": 64, "mlp_ratio": 4.0, "patch_size": 16,
    "image_size": 224, "attn_pooler_heads": 8,
}  # fmt: skip
_TEXT = {
    "context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12,
    "mlp_ratio": 4.0,
}  # fmt: skip


def recognises(source: Source) -> bool:
    """Returns True if there is a config of OpenCLIP."""
    return "model_cfg" in source.open_clip


def table(source: Source) -> Table:
    """Returns OpenAI's rename table, with "text." before the text tower if the source has it.

    The rules of a PE-Core are timm's.
    """
    prefix = "text." if "text.positional_embedding" in source.tensors else ""
    scales = [
        (rf"{ours}/blocks/(\d+)/scale(\d)", rf"{theirs}.resblocks.\1.ls_\2.gamma", "same")
        for ours, theirs in (("visual", "visual.transformer"), ("text", "transformer"))
    ]
    rules = [
        (ours, prefix + theirs if ours.startswith("text") else theirs, layout)
        for ours, theirs, layout in (*openai.table(source), *scales)
    ]
    if "visual.attn_pool.query" in source.tensors:
        rules += _attentional_pool(source)
    if timm.within(source):
        rules = [rule for rule in rules if not rule[0].startswith(("visual", "image_proj"))]
        rules += timm.trunk_table(source)
    return [*rules, ("logit_bias", "logit_bias", "same")]


def _attentional_pool(source: Source) -> Table:
    """Returns the rules of the attentional pooling, of whose queries the first is read."""
    ours, theirs = "visual/pool", "visual.attn_pool"
    queries = max(1, len(np.atleast_1d(source.tensors[f"{theirs}.query"])))
    rules: Table = [
        (f"{ours}/query", f"{theirs}.query", f"same:0/{queries}"),
        *norm(f"{ours}/ln_q", f"{theirs}.ln_q"),
        *norm(f"{ours}/ln_k", f"{theirs}.ln_k"),
        *linear(f"{ours}/out", f"{theirs}.attn.out_proj"),
    ]
    fused = f"{theirs}.attn.in_proj_weight" in source.tensors
    for i, a in enumerate("qkv"):
        name, layout = (
            ("in_proj_weight", f"linear:{i}/3") if fused else (f"{a}_proj_weight", "linear")
        )
        rules.append((f"{ours}/{a}/kernel", f"{theirs}.attn.{name}", layout))
        rules.append((f"{ours}/{a}/bias", f"{theirs}.attn.in_proj_bias", f"same:{i}/3"))
    return rules


def resize(source: Source) -> str:
    """Returns OpenCLIP's interpolation of position embeddings."""
    return "antialias"


def read_config(source: Source) -> BackboneConfig:
    """Reads the sizes from open_clip_config.json.

    Raises UserError for options that our towers do not support, all in one message, and for sizes
    that do not fit.
    """
    where = f"{source.where}: by its {OPEN_CLIP}"
    model = declared.part(where, source.open_clip, "model_cfg")
    if missing := [name for name in ("embed_dim", "vision_cfg", "text_cfg") if name not in model]:
        raise UserError(f"{where} the model has no {' and no '.join(missing)}. Get it again.")
    quick = bool(model.get("quick_gelu"))
    v, t = (declared.part(where, model, f"{tower}_cfg") for tower in ("vision", "text"))
    notes = _check_supported(where, {"model_cfg": model, "vision_cfg": v, "text_cfg": t}, quick)
    embed = declared.read(where, model, {"embed_dim": 1024})["embed_dim"]
    resnet = isinstance(v.get("layers"), list)
    vision, more = _vision(source, where, v, embed, quick)
    if notes:
        return BackboneConfig(vision, notes=(*notes, *more))
    t |= declared.read(where, t, _TEXT, "text_cfg.")
    tower = _tower(where, "text_cfg", t, t["heads"], quick)
    scaled = t.get("ls_init_value") is not None
    return BackboneConfig(
        vision=vision,
        text=TextConfig(t["vocab_size"], t["context_length"], **tower, layer_scale=scaled),
        embed=embed,
        projections=("text",) if resnet else ("image", "text"),
        logit_bias=model.get("init_logit_bias") is not None,
        notes=more,
    )


def _vision(
    source: Source, where: str, v: dict[str, Any], embed: int, quick: bool
) -> tuple[Vision, tuple[str, ...]]:
    """Returns (sizes of the image tower, notes) by its part of the config."""
    prepared = declared.part(where, source.open_clip, "preprocess_cfg")
    statistics = declared.statistics(where, prepared, ("mean", "std"), CLIP_MEAN, CLIP_STD)
    if timm.is_trunk(v.get("timm_model_name")):
        return timm.read_trunk(source, where, v, statistics)
    if isinstance(v.get("layers"), list):
        v |= declared.read(where, v, _RESNET, "vision_cfg.")
        return _resnet(where, v, embed, statistics), ()
    v |= declared.read(where, v, _VIT, "vision_cfg.")
    size, notes = declared.whole_patches(where, v["image_size"], v["patch_size"])
    tower = _tower(where, "vision_cfg", v, v["width"] // v["head_width"], quick)
    if v.get("attentional_pool"):
        pooling = {
            "pool": "query", "class_token": True, "last_norm": "after",
            "feature": 0 if embed == v["width"] else embed, "pool_heads": v["attn_pooler_heads"],
        }  # fmt: skip
    elif v.get("pool_type") == "avg":
        last = "after" if v.get("final_ln_after_pool") else "before"
        pooling = {"pool": "avg", "class_token": True, "last_norm": last}
    else:
        pooling = {}
    vision = VisionConfig(
        size, v["patch_size"], **tower, **statistics, ln_pre=not v.get("no_ln_pre"),
        layer_scale=v.get("ls_init_value") is not None, **pooling,
    )  # fmt: skip
    return vision, notes


def _check_supported(where: str, parts: dict[str, dict[str, Any]], quick: bool) -> tuple[str, ...]:
    """Returns a note if the text tower is another than CLIP's, so that it is left out.

    Raises UserError for an image tower that differs from ours, with all options in one message.
    """
    faults = {
        f"{part}.{name} = {shown(value)}": part == "text_cfg"
        for part, options in parts.items()
        for name, value in options.items()
        if _differs(part, name, value, quick)
    }
    v = parts["vision_cfg"]
    if v.get("attentional_pool") and v.get("pool_type") == "avg":
        faults["vision_cfg.pool_type = 'avg' with attentional_pool"] = False
    if not all(faults.values()):
        raise UserError(
            f"{where} the model differs from CLIP's ViT and ResNet in {'; '.join(faults)}. This is "
            "not supported; give another model, or the same one in the layout of Hugging Face or "
            "timm where there is one."
        )
    if not faults:
        return ()
    return (
        f"{where} the text tower differs from CLIP's in {'; '.join(faults)}, which is not "
        "supported. The image tower alone is taken: there is no zero-shot classifier, and heads "
        "start from class means. For a text tower give another model, or the same one in Hugging "
        "Face's layout where there is one.",
    )


def _differs(part: str, name: str, value: Any, quick: bool) -> bool:
    """Returns True if an option makes a model compute something else than our towers."""
    if (
        not value
        or name in _KNOWN[part].split()
        or name == "timm_model_name"
        and timm.is_trunk(value)
    ):
        return False
    if name == "norm_kwargs":
        return not isinstance(value, dict) or set(value) != {"eps"}
    if name == "act_kwargs":
        return quick or value != {"approximate": "tanh"}
    return (part, name, value) not in _PLAIN


def _tower(
    where: str, part: str, values: dict[str, Any], heads: int, quick: bool
) -> dict[str, Any]:
    """Returns the settings that image and text transformers share, under our names.

    Raises UserError if the width is not a multiple of the heads.
    """
    if heads < 1 or values["width"] % heads:
        raise UserError(
            f"{where} {part}.width {values['width']} is not a multiple of {heads} heads."
        )
    gelu = "gelu_tanh" if values.get("act_kwargs") else "gelu"
    return {
        "width": values["width"], "layers": values["layers"], "heads": heads,
        "mlp": int(values["width"] * values["mlp_ratio"]),
        "activation": "quick_gelu" if quick else gelu,
        **declared.read(where, values.get("norm_kwargs") or {}, {"eps": 1e-5}, f"{part}."),
    }  # fmt: skip


def _resnet(
    where: str, values: dict[str, Any], embed: int, statistics: dict[str, Any]
) -> ResNetConfig:
    """Returns the sizes of CLIP's ResNet. Raises UserError unless it has four stages."""
    width, layers = values["width"], values["layers"]
    if len(layers) != 4 or any(type(n) is not int or n < 1 for n in layers):
        raise UserError(f"{where} vision_cfg.layers is {shown(layers)}; expected four numbers > 0.")
    return ResNetConfig(
        values["image_size"], embed, width, tuple(width << i for i in range(4)), tuple(layers),
        heads=width * 32 // values["head_width"], **statistics,
    )  # fmt: skip
