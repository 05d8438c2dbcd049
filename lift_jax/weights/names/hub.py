"""The names of backbones, and the download of their files from the Hugging Face hub."""

import os
from pathlib import Path

from lift_jax.errors import UserError, unknown
from lift_jax.storage.names import expand_user
from lift_jax.weights import tokenizer
from lift_jax.weights.files.headers import shard_names
from lift_jax.weights.files.repository import NAME, failures, look_up
from lift_jax.weights.files.source import (
    ADAPTER,
    ADAPTER_WEIGHTS,
    CONFIG,
    OPEN_CLIP,
    PREPROCESSOR,
    SUFFIXES,
    read_json,
    weight_names,
)

# Our names -> repositories of the hub. A repository's name includes the training recipe, so the
# weights behind a name never change, as they did behind timm's bare model names.
NAMES = {
    # CLIP by OpenAI
    "clip_vit_b32": "openai/clip-vit-base-patch32",
    "clip_vit_b16": "openai/clip-vit-base-patch16",
    "clip_vit_l14": "openai/clip-vit-large-patch14",
    "clip_vit_l14_336": "openai/clip-vit-large-patch14-336",
    "clip_rn50": "timm/resnet50_clip.openai",
    "clip_rn101": "timm/resnet101_clip.openai",
    "clip_rn50x4": "timm/resnet50x4_clip.openai",
    "clip_rn50x16": "timm/resnet50x16_clip.openai",
    # CLIP by others
    "clip_vit_b16_laion2b": "laion/CLIP-ViT-B-16-laion2B-s34B-b88K",
    "clip_vit_h14_laion2b": "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    "clip_vit_b16_datacomp": "laion/CLIP-ViT-B-16-DataComp.XL-s13B-b90K",
    "clip_vit_l14_datacomp": "laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K",
    "clip_vit_b16_dfn": "apple/DFN2B-CLIP-ViT-B-16",
    "clip_vit_h14_dfn": "apple/DFN5B-CLIP-ViT-H-14",
    "clip_vit_b16_metaclip": "facebook/metaclip-b16-fullcc2.5b",
    "clip_vit_l14_metaclip": "facebook/metaclip-l14-fullcc2.5b",
    "clip_vit_h14_metaclip": "facebook/metaclip-h14-fullcc2.5b",
    "clip_vit_b16_metaclip2": "facebook/metaclip-2-worldwide-b16",
    "clip_vit_l14_metaclip2": "facebook/metaclip-2-worldwide-l14",
    "clip_vit_h14_metaclip2": "facebook/metaclip-2-worldwide-huge-quickgelu",
    # CLIP of plants, animals and fungi, which has seen iNaturalist (seen.py)
    "bioclip_b16": "imageomics/bioclip",
    "bioclip2_l14": "imageomics/bioclip-2",
    "bioclip2_5_h14": "imageomics/bioclip-2.5-vith14",
    # images and texts with a sigmoid loss
    "siglip_b16": "google/siglip-base-patch16-224",
    "siglip2_b16": "google/siglip2-base-patch16-224",
    # the Perception Encoder, with its text tower
    "pe_core_b16": "timm/PE-Core-B-16",
    "pe_core_l14": "timm/PE-Core-L-14-336",
    # the image tower of TIPSv2
    "tipsv2_b14": "timm/vit_base_patch14_reg1_tipsv2.webli",
    # supervised
    "vit_b16_in21k": "timm/vit_base_patch16_224.augreg_in21k",
    "vit_b16_in21k_ft_in1k": "timm/vit_base_patch16_224.augreg_in21k_ft_in1k",
    "vit_b16_augreg2_in21k_ft_in1k": "timm/vit_base_patch16_224.augreg2_in21k_ft_in1k",
    "vit_b16_384_in21k_ft_in1k": "timm/vit_base_patch16_384.augreg_in21k_ft_in1k",
    "vit_l16_in21k": "timm/vit_large_patch16_224.augreg_in21k",
    "vit_l16_in21k_ft_in1k": "timm/vit_large_patch16_224.augreg_in21k_ft_in1k",
    "vit_l16_384_in21k_ft_in1k": "timm/vit_large_patch16_384.augreg_in21k_ft_in1k",
    "resnet50": "timm/resnet50.a1_in1k",
    "resnet101": "timm/resnet101.a1h_in1k",
    "resnet152": "timm/resnet152.a1h_in1k",
    # self-supervised
    "dinov2_s14": "facebook/dinov2-small",
    "dinov2_b14": "facebook/dinov2-base",
    "dinov2_l14": "facebook/dinov2-large",
    "dinov2_b14_reg": "facebook/dinov2-with-registers-base",
    "dinov3_s16": "facebook/dinov3-vits16-pretrain-lvd1689m",
    "dinov3_b16": "facebook/dinov3-vitb16-pretrain-lvd1689m",
    "dinov3_l16": "facebook/dinov3-vitl16-pretrain-lvd1689m",
}
# The number of blocks of image towers with more than 12, for backbones that are not downloaded yet.
DEPTHS = {
    name: 32 if "_h14" in name else 24
    for name in NAMES
    if any(part in name for part in ("_l14", "_l16", "_h14"))
} | {
    "clip_rn50": 16, "clip_rn101": 33, "clip_rn50x4": 26, "clip_rn50x16": 40,
    "resnet50": 16, "resnet101": 33, "resnet152": 50,
}  # fmt: skip
DEMO = Path(__file__).parents[2] / "demo" / "tiny_clip"

# the files that are read beside the weights
_BESIDE = (CONFIG, OPEN_CLIP, PREPROCESSOR, *tokenizer.FILES, "special_tokens_map.json")


def locate(name: str) -> Path:
    """Returns the file or folder that a backbone's name stands for, downloading where needed.

    A name is a key of `NAMES`, 'demo', the path of a file or folder, or a hub name
    'owner/repository'. Keys and hub names may end in '@revision': a branch, a tag or a commit. Hub
    files are kept in the cache of huggingface_hub, and are used from there without a network.
    Raises UserError if nothing has this name, or if it cannot be downloaded.
    """
    if name == "demo":
        return DEMO
    known, _, revision = name.partition("@")
    if known in NAMES:
        return _download(NAMES[known], revision or None)
    path = expand_user(name)
    if name and os.path.exists(path):
        return path
    hub_name = NAME.fullmatch(name)
    if hub_name and not name.endswith(SUFFIXES):
        return _download(hub_name[1], hub_name[2])
    if "/" in name or name.endswith(SUFFIXES):
        raise UserError(
            f"The backbone {name:.300} does not exist: no such file or folder. Check the path "
            "(model.backbone)."
        )
    raise unknown("backbone (model.backbone)", known, [*NAMES, "demo", "debug"])


def clip_tokenizer() -> Path:
    """Returns a folder with the tokenizer of OpenAI's CLIP, downloading it where needed.

    Raises UserError if it cannot be downloaded.
    """
    return _download(NAMES["clip_vit_b32"], None, weights=False)


def _download(repository: str, revision: str | None, weights: bool = True) -> Path:
    """Downloads the files that we read, and no others; returns the folder of the snapshot.

    With `weights` False only the files beside the weights are downloaded.
    """
    with failures("backbone", repository, revision):
        found = look_up(repository, revision)
        # The weights come last, so that a cached snapshot with weights has all the other files.
        beside = {name: found.fetch(name) for name in _BESIDE if name in found.names}
        if not weights and beside:
            return next(iter(beside.values())).parent
        order = weight_names(beside.get(CONFIG))
        chosen = next((name for name in order if name in found.names), None)
        if chosen is None:
            found.check_reached("no weights in the cache")
        if chosen is None and ADAPTER in found.names:
            found.fetch(ADAPTER)
            order = ADAPTER_WEIGHTS
            chosen = next((name for name in order if name in found.names), None)
        if chosen is None:
            raise UserError(
                f"{repository} on the hub has no weights that can be read here: expected one of "
                f"{', '.join(order)}; found {', '.join(sorted(found.names))}. Choose another "
                "repository."
            )
        file = found.fetch(chosen)
        if chosen.endswith(".index.json"):
            for shard in shard_names(read_json(file), str(file)):
                found.fetch(shard)
    return file.parent
