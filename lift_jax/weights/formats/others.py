"""Weights of kinds that are not supported: what they are by their names, and what to do.

Most of these have the names of a known kind with a few more, or even the same names with other
shapes. They are told apart before anything is read, so that none is taken for a plain tower.
"""

import re
from pathlib import Path

from lift_jax.errors import UserError
from lift_jax.weights.files.source import (
    CONFIG,
    MERGE,
    OPEN_CLIP,
    OPEN_CLIP_WEIGHTS,
    Source,
)
from lift_jax.weights.files.state_dicts import prefixes
from lift_jax.weights.formats import timm

_HUGGING_FACE = "Give the same model in Hugging Face's layout (a folder with config.json)."
_PLAIN_RESNET = "Give a plain ResNet: resnet50, resnet101 or resnet152 of torchvision or timm."
_PLAIN_VIT = "Give a plain ViT: CLIP, DINOv2, DINOv3, MAE, DeiT or timm's."
_PE = (
    "Give PE-Core as timm's folder with its config.json, or as OpenCLIP's with its "
    "open_clip_config.json (timm/PE-Core-B-16); or a plain ViT, like CLIP or DINOv2."
)
_TIPS = (
    "Give its image tower as timm's folder with its config.json "
    "(timm/vit_base_patch14_reg1_tipsv2.webli); its texts have code of their own."
)
_EVA = (
    "Give EVA, EVA-02 or DINOv3 as timm's folder with its config.json, whose name of the model "
    "says what the weights do not show; or a plain ViT, like CLIP, DINOv2, MAE, DeiT."
)
# (pattern of a name, what has such a name, what to do), the surest first
KINDS = (
    (r"(.*\.)?lora_[AB]\..*", "a layer with an adapter of peft", MERGE),
    (r".*\.rel_pos_[hw]", "the image tower of SAM or a detector, with relative positions",
     _PLAIN_VIT),
    (r".*relative_position_(bias_table|index)|.*\.rel_pos_bias\..*", "BEiT, data2vec or Swin, with "
     "relative positions", _PLAIN_VIT),
    (r"blocks\.\d+\.(.*\.)?(gamma\d|[qv]_bias)", "BEiT, EVA, data2vec or XCiT", _EVA),
    (r"blocks\.\d+\.(.*\.)?(inner_attn_ln|ffn_ln|w12_\w+|fc1_[gx]|[qkv]_proj)\..*|"
     r"(rope|.*\.rope)\.freqs.*", "EVA-02, or DINOv3 in timm's naming", _EVA),
    (r"layers\.\d+\.(blocks|downsample)\..*", "Swin", _PLAIN_VIT),
    (r"(downsample_layers|stages)\.\d+\..*", "ConvNeXt or another tower in stages", _PLAIN_VIT),
    (r"visual\.attn_pool\.(probe|layernorm\..*)", "Perception Encoder (PE) in the naming of "
     "its own code", _PE),
    (r"vision_encoder\.(blocks|patch_embed|cls_token)\b.*", "TIPS or TIPSv2", _TIPS),
    (r"(.*\.)?patch_embed\.(proj\.\d+|backbone)\..*", "a ViT with several convolutions in its stem",
     "Give one that cuts its images into patches."),
    (r"visual\.trunk\..*", "CLIP of OpenCLIP with an image tower of timm", _HUGGING_FACE),
    (r"text\.(token_embedding|positional_embedding|transformer)\b.*", "OpenCLIP's layout of texts, "
     f"without its {OPEN_CLIP}", f"Put the {OPEN_CLIP} of the same model beside it, name the file "
     f"{OPEN_CLIP_WEIGHTS[0]} (or {OPEN_CLIP_WEIGHTS[1]} of PyTorch), and give its folder."),
    (r"(conv_proj|encoder\.layers\.encoder_layer_\d+)\..*|encoder\.pos_embedding",
     "torchvision's ViT, or SWAG's", "Give the same ViT in timm's or Hugging Face's layout."),
    (r"conv1\.\d+\..*", "a ResNet-C or -D, with three convolutions in its stem", _PLAIN_RESNET),
    (r"(.*\.)?layer\d\.\d+\.downsample\.2\..*", "a ResNet-D, which averages before its shortcuts",
     _PLAIN_RESNET),
    (r"layer\d\.\d+\.se(_module)?\..*", "an SE-ResNet", _PLAIN_RESNET),
    (r"layer\d\.\d+\.(eca|attn|cbam|gc)\..*", "a ResNet with attention", _PLAIN_RESNET),
    (r"(.*\.)?(filt|aa\..*|conv2\.[1-9]\..*|maxpool\..*)", "an anti-aliased ResNet", _PLAIN_RESNET),
)  # fmt: skip
# the names of text towers, with their projection
_TEXTS = (
    r"(text|text_model|transformer|token_embedding|ln_final)\..*|positional_embedding|"
    r"text_projection(\.weight)?|logit_(scale|bias)"
)
# names in the layout of transformers, whose sizes config.json states
_TRANSFORMERS = (
    r"(.*\.)?(vision_model\..*|embeddings\.(cls_token|class_embedding|patch_embeddings?\..*)|"
    r"encoder\.layers?\.\d+\..*|layer\.\d+\.attention\..*)"
)
# names of files of ResNets that have the tensors of the plain one, and compute other features
_OTHER_RESNETS = r"resnet_?(blur|aa)|blurpool|anti_?alias|dilated|caffe|(?<![a-z])os(8|16)"

# the same of ViTs
_OTHER_VITS = r"(?<![a-z])(rope|pe_(core|lang|spatial)|rpn|post_?norm)(?![a-z])"


def check(source: Source) -> None:
    """Raises UserError for a source of a kind that is not supported, also of texts alone."""
    if str(source.config.get("model_type")).startswith("tips"):
        raise UserError(f"{source.where} is TIPS or TIPSv2, which is not supported. {_TIPS}")
    texts = re.compile(_TEXTS).fullmatch
    if source.tensors and all(texts(name[:500]) for name in source.tensors):
        raise UserError(
            f"{source.where} holds a text tower alone ({next(iter(source.tensors)):.80}, ...); "
            "expected an image tower, with or without texts. Give the whole model."
        )
    if "model_type" in source.config or source.open_clip:
        return
    for pattern, kind, remedy in KINDS:
        if remedy == _EVA and timm.is_eva(source):
            continue
        if name := _first(source, pattern):
            raise UserError(
                f"{source.where} holds {name:.80}, a sign of {kind}, which is not supported. "
                f"{remedy}"
            )
    if name := _first(source, _TRANSFORMERS):
        raise UserError(f"{source.where} holds {name:.80}, {_config_missing(source)}")
    if found := prefixes(source.tensors):
        raise UserError(
            f"{source.where} holds an image tower under {found[0]!r} beside other tensors, as no "
            "model that is known. Save the tensors under that prefix alone, and give that file."
        )
    _check_vit(source)
    _check_resnet(source)


def _first(source: Source, pattern: str) -> str:
    """Returns the first name that fits a pattern in full, "" if none does."""
    fits = re.compile(pattern).fullmatch
    return next((name for name in source.tensors if len(name) < 500 and fits(name)), "")


def _config_missing(source: Source) -> str:
    """Returns the rest of a sentence that says which config is missing, and where it belongs."""
    beside = Path(source.where).parent / CONFIG
    found = "one without model_type" if beside.exists() else "none"
    return (
        f"a name of transformers, whose sizes {CONFIG} states; expected {beside}, found {found}. "
        f"Put the {CONFIG} of the same model there (and its preprocessor_config.json)."
    )


def _check_vit(source: Source) -> None:
    """Raises UserError for a ViT with the weights of a known one that computes other features."""
    pooled = {"attn_pool.latent", "norm_pre.weight"} <= source.tensors.keys()
    if pooled and not timm.is_eva(source):
        raise UserError(
            f"{source.where} holds attn_pool.latent and norm_pre.weight, signs of a Perception "
            f"Encoder without the config that has its sizes, which is not supported. {_PE}"
        )
    found = re.search(_OTHER_VITS, source.path.name.lower())
    if found and not source.config and "patch_embed.proj.weight" in source.tensors:
        raise UserError(
            f"{source.path}: {found[0]!r} in its name stands for a ViT with the weights of another "
            f"that computes other features, which is not supported. {_PLAIN_VIT} If it is a plain "
            "one, give it another name."
        )


def _check_resnet(source: Source) -> None:
    """Raises UserError for a ResNet whose shapes, or whose name, are not those of the plain one."""
    conv = source.tensors.get("layer1.0.conv2.weight")
    last = source.tensors.get("layer1.0.conv3.weight")
    if conv is None or conv.ndim != 4 or last is None or last.ndim != 4:
        return
    kind, tensors = "", source.tensors
    if "layer1.0.bn1.weight" in tensors and "layer1.0.bn1.running_mean" not in tensors:
        raise UserError(
            f"{source.where} is missing layer1.0.bn1.running_mean: it has no statistics of its "
            "BatchNorms, or GroupNorms in place of them, which are not supported. Save the whole "
            f"state dict (parameters and buffers). {_PLAIN_RESNET}"
        )
    if conv.shape[1] != conv.shape[0]:
        kind = "a ResNeXt, with convolutions in groups"
    elif last.shape[0] == 2 * last.shape[1]:
        kind = "a wide ResNet, with bottlenecks of twice the width"
    if kind:
        shapes = f"{conv.shape} for layer1.0.conv2.weight, {last.shape} for layer1.0.conv3.weight"
        raise UserError(
            f"{source.where} has the shapes of {kind} ({shapes}), which is not supported. "
            f"{_PLAIN_RESNET}"
        )
    found = re.search(_OTHER_RESNETS, source.path.name.lower())
    if found and not source.config:
        raise UserError(
            f"{source.path}: {found[0]!r} in its name stands for a ResNet with the weights of the "
            f"plain one that computes other features, which is not supported. {_PLAIN_RESNET} If "
            "it is a plain one, give it another name."
        )
