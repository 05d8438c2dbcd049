"""Licences of the weights of known backbones, as their model cards state them."""

from lift_jax.weights.names.hub import NAMES

LICENCES = {
    "MIT": (
        "clip_vit_b32", "clip_vit_b16", "clip_vit_l14", "clip_vit_l14_336", "clip_rn50",
        "clip_rn101", "clip_rn50x4", "clip_rn50x16", "clip_vit_b16_laion2b",
        "clip_vit_h14_laion2b", "clip_vit_b16_datacomp", "clip_vit_l14_datacomp", "bioclip_b16",
        "bioclip2_l14",
    ),
    "Apple, research only": ("clip_vit_b16_dfn", "clip_vit_h14_dfn"),
    "CC BY-NC 4.0": ("clip_vit_b16_metaclip", "clip_vit_h14_metaclip"),
    # the licence of the authors' repository; their model cards could not be read
    "CC BY-NC 4.0, not verified": (
        "clip_vit_l14_metaclip", "clip_vit_b16_metaclip2", "clip_vit_l14_metaclip2",
        "clip_vit_h14_metaclip2",
    ),
    "not verified": ("bioclip2_5_h14",),
    "Apache-2.0": (
        "siglip_b16", "siglip2_b16", "pe_core_b16", "pe_core_l14", "tipsv2_b14",
        "vit_b16_in21k", "vit_b16_in21k_ft_in1k",
        "vit_b16_augreg2_in21k_ft_in1k", "vit_b16_384_in21k_ft_in1k", "vit_l16_in21k",
        "vit_l16_in21k_ft_in1k", "vit_l16_384_in21k_ft_in1k", "resnet50", "resnet101", "resnet152",
        "dinov2_s14", "dinov2_b14", "dinov2_l14", "dinov2_b14_reg", "demo",
    ),
    "DINOv3 License, gated": ("dinov3_s16", "dinov3_b16", "dinov3_l16"),
}  # fmt: skip
UNKNOWN = "unknown"
# licence -> what a model card on the hub says; its names of licences are fixed
_ON_THE_HUB = {
    "MIT": {"license": "mit"},
    "Apache-2.0": {"license": "apache-2.0"},
    "CC BY-NC 4.0": {"license": "cc-by-nc-4.0"},
    "Apple, research only": {"license": "other", "license_name": "apple-amlr"},
    "DINOv3 License, gated": {"license": "other", "license_name": "dinov3-license"},
    "CC BY-NC 4.0, not verified": {"license": "cc-by-nc-4.0"},
    "not verified": {"license": "unknown"},
    UNKNOWN: {"license": "unknown"},
}


def licence(backbone: str) -> str:
    """Returns the licence of the weights that a name stands for, `UNKNOWN` for files and others."""
    given = backbone.partition("@")[0]
    name = next((ours for ours, theirs in NAMES.items() if theirs == given), given)
    return next((text for text, names in LICENCES.items() if name in names), UNKNOWN)


def on_the_hub(text: str) -> dict[str, str]:
    """Returns what a model card says of a licence of `licence`."""
    return _ON_THE_HUB[text]
