"""timm's names of models: what a ViT computes that its weights do not show."""

import re
from typing import Any

from lift_jax.weights.files.source import Source
from lift_jax.weights.formats import declared, families
from lift_jax.weights.formats.huggingface import says

# timm's names of ViTs whose weights, heads, activation and epsilon show all that they compute
_VIT_NAMES = (
    r"(vit|deit|deit3)_(tiny|wee|little|xsmall|small|mediumd?|betwixt|base|large|huge|giant(opt)?|"
    r"gigantic|so150m2?|so400m|intern300m)(_distilled)?_patch\d+(_(\d+|\d+x1|reg\d+|gap|map|clip|"
    r"quickgelu|plus|siglip|dinov2|tipsv2|radio|v\d|miil|in21k|in12k|in1k|ft|sam|laion2b|dino))*|"
    r"flexivit_(small|base|large)|beit3_(base|large|giant)_patch\d+_\d+|test_vit2?"
)
EVA2_NAMES = r"eva02_(tiny|small|base|large)_patch\d+_(clip_)?\d+"
DINOV3_NAMES = r"vit_(tiny|small(_plus)?|base|large|huge_plus|7b)_patch16_dinov3(_qkvb)?"
PE_NAMES = r"vit_pe_core_(tiny|small|base|large|gigantic)_patch(\d+)_(\d+)"
PAIRED_NAMES = rf"{EVA2_NAMES}|{PE_NAMES}"  # whose rotary positions pair neighbours
_EVA_NAMES = rf"eva_giant_patch14_(clip_)?\d+|{DINOV3_NAMES}|{PAIRED_NAMES}"
# timm's names of models, many of which have the weights of others and compute other features
OWN_NAMES = (
    r"(vit|deit3?|eva|eva02|beit|beit3|beitv2|flexivit|aimv2|cait|xcit|samvit)_.*|test_vit.*"
)
RESNET_NAMES = r"(tv_|gluon_|ssl_|swsl_)?resnet(26|50|101|152|200)(_v1b)?"
# The number of heads by width: that of a ViT without a name, and further ones of _VIT_NAMES.
_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16, 1664: 16}
_NAMED_HEADS = _HEADS | {
    64: 2, 256: 4, 320: 5, 512: 8, 640: 10, 832: 13, 896: 14, 1152: 16, 1536: 24,
    4096: 32,
}  # fmt: skip
# (what differs from other ViTs, pattern of the names that it is so in, value)
_TRAITS = (
    ("heads", r"vit_base_patch16_gap_224|vit_giantopt_.*", 16),
    ("heads", r"vit_huge_plus_.*", 20),
    ("heads", r"vit_pe_core_gigantic_.*", 16),
    ("eps", rf"vit_.*_clip_.*|beit3_.*|{DINOV3_NAMES}|{PE_NAMES}", 1e-5),
    ("activation", r".*_quickgelu_.*", "quick_gelu"),
    ("activation", r"vit_(base_patch32|giantopt_patch16|so400m_patch16)_siglip_.*|"
     r"vit_large_patch16_siglip_(gap_)?512", "gelu_tanh"),
)  # fmt: skip


def is_eva(source: Source) -> bool:
    """Returns True for a known EVA, DINOv3 or PE-Core by timm's name of the model."""
    return named(source, _EVA_NAMES)


def is_known(source: Source) -> bool:
    """Returns True for a name of timm's that, with the weights, shows all that a ViT computes."""
    return named(source, f"{_VIT_NAMES}|{_EVA_NAMES}")


def named(source: Source, names: str) -> bool:
    """Returns True if the whole of timm's name of the model matches a pattern."""
    name = source.config.get("architecture")
    return isinstance(name, str) and re.fullmatch(names, name) is not None


def architecture(source: Source) -> str:
    """Returns timm's name of the model, "" without one."""
    return declared.read(says(source), source.config, {"architecture": ""})["architecture"]


def arguments_of(source: Source) -> dict[str, Any]:
    """Returns the constructor's arguments that config.json states."""
    c = source.config
    stated = {"global_pool": c["global_pool"]} if "global_pool" in c else {}
    return stated | declared.part(says(source), c, "model_args")


def trait_of(source: Source, trait: str, default: Any) -> Any:
    """Returns a trait of a ViT by timm's name of the model; `default` where the name has none."""
    name = architecture(source)
    found = (value for kind, names, value in _TRAITS if kind == trait and re.fullmatch(names, name))
    return next(found, default)


def heads_of(source: Source, width: int) -> int | None:
    """Returns the number of heads by the model's name, its family or its width, None if unknown."""
    name = architecture(source)
    if name and not is_known(source):
        return None
    family = None if families.stated(source) else families.family(source)
    known = (_NAMED_HEADS if name else _HEADS).get(width)
    known = dict(family[0].heads).get(width, known) if family else known
    return trait_of(source, "heads", known)
