"""Licences of the weights of known backbones, as their model cards state them."""

LICENCES = {
    "MIT": (
        "clip_vit_b32", "clip_vit_b16", "clip_vit_l14", "clip_vit_l14_336", "clip_rn50",
        "clip_rn101", "clip_rn50x4", "clip_rn50x16", "clip_vit_b16_laion2b",
        "clip_vit_h14_laion2b", "clip_vit_b16_datacomp", "clip_vit_l14_datacomp",
    ),
    "Apple, research only": ("clip_vit_b16_dfn", "clip_vit_h14_dfn"),
    "CC BY-NC 4.0": ("clip_vit_b16_metaclip",),
    "Apache-2.0": (
        "siglip_b16", "siglip2_b16", "vit_b16_in21k", "vit_b16_in21k_ft_in1k",
        "vit_b16_augreg2_in21k_ft_in1k", "vit_b16_384_in21k_ft_in1k", "vit_l16_in21k",
        "vit_l16_in21k_ft_in1k", "vit_l16_384_in21k_ft_in1k", "resnet50", "resnet101", "resnet152",
        "dinov2_s14", "dinov2_b14", "dinov2_l14", "dinov2_b14_reg", "demo",
    ),
    "DINOv3 License, gated": ("dinov3_s16", "dinov3_b16", "dinov3_l16"),
}  # fmt: skip
UNKNOWN = "unknown"


def licence(backbone: str) -> str:
    """Returns the licence of the weights that a name stands for, `UNKNOWN` for files and others."""
    name = backbone.partition("@")[0]
    return next((text for text, names in LICENCES.items() if name in names), UNKNOWN)
