"""timm's format: its plain ViT and ResNet, as a folder from its hub or as bare weights.

A folder has a config.json with the mean and standard deviation of the images. For bare weights
these are taken by their family (families.py): DINO, iBOT, MAE, MoCo and DeiT name a ViT in the same
way. Images for a ResNet are normalised by ImageNet's statistics at 224 pixels. torchvision's
ResNets have the same names and can be read too.
"""

import re
from typing import Any

from lift_jax.errors import UserError, shown
from lift_jax.models.backbone import BackboneConfig
from lift_jax.models.resnet import EXPANSION, IMAGENET_MEAN, IMAGENET_STD, ResNetConfig
from lift_jax.models.vit import VisionConfig
from lift_jax.weights.files.source import Source
from lift_jax.weights.formats import bare, declared, families
from lift_jax.weights.formats.huggingface import says
from lift_jax.weights.rename import Table, ignored, linear, norm

# the sizes that names and shapes of a ViT's weights do not show
SIZES = ("heads", "eps", "activation")
# Classifiers, and what pre-training by masks needs.
IGNORED = (
    r"head\..*", r"fc\..*", r"pre_logits\..*", "mask_token", "masked_embed", r"decoder_.*",
    bare.COUNTS,
)  # fmt: skip

_VIT_NAMES = r"(vit|deit)_(tiny|small|base|large|huge|giant|gigantic)_patch\d+_\d+(_in21k|_dino)?"
_RESNET_NAMES = r"(tv_|gluon_|ssl_|swsl_)?resnet(26|50|101|152|200)(_v1b)?"
# the number of heads of the models in _VIT_NAMES, by width
_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16, 1664: 16}
# the constructor's arguments that names and shapes show, or that do not change the features
_SHOWN = {
    "num_classes", "in_chans", "img_size", "patch_size", "embed_dim", "depth", "mlp_ratio",
    "num_heads", "qkv_bias", "class_token", "global_pool", "init_values", "layers", "channels",
    "dynamic_img_size", "dynamic_img_pad", "strict_img_size",
}  # fmt: skip


def recognises(source: Source) -> bool:
    """Returns True for timm's config, and for the names of its ViT or ResNet."""
    if "attnpool.positional_embedding" in source.tensors:
        return False  # CLIP's ResNet
    return "architecture" in source.config or _is_vit(source) or _is_resnet(source)


def _is_vit(source: Source) -> bool:
    return any(name.startswith(("patch_embed.", "blocks.")) for name in source.tensors)


def _is_resnet(source: Source) -> bool:
    return any(name.startswith("layer1.") for name in source.tensors)


_BLOCK = r"visual/blocks/(\d+)"
_VIT: Table = [
    *linear("visual/stem/linear", "patch_embed.proj")[1:],
    ("visual/stem/linear/kernel", "patch_embed.proj.weight", "stem"),
    ("visual/cls", "cls_token", "lead2"),
    ("visual/positions", "pos_embed", "lead1"),
    *norm("visual/ln_post", "norm"),
    *norm(rf"{_BLOCK}/ln(\d)", r"blocks.\1.norm\2"),
    *linear(f"{_BLOCK}/out", r"blocks.\1.attn.proj"),
    *linear(rf"{_BLOCK}/fc(\d)", r"blocks.\1.mlp.fc\2"),
    (rf"{_BLOCK}/scale(\d)", r"blocks.\1.ls\2.gamma", "same"),
]
for _i, _a in enumerate("qkv"):
    _VIT.append((f"{_BLOCK}/{_a}/kernel", r"blocks.\1.attn.qkv.weight", f"linear:{_i}/3"))
    _VIT.append((f"{_BLOCK}/{_a}/bias", r"blocks.\1.attn.qkv.bias", f"same:{_i}/3"))
_RESNET: Table = [
    ("visual/stem/convs/0/kernel", "conv1.weight", "conv"),
    *bare.batch_norm("visual/stem/bns/0", "bn1"),
]


def table(source: Source) -> Table:
    """Returns the rename table of a ViT, or of this ResNet."""
    return [*_RESNET, *bare.bottlenecks(source)] if _is_resnet(source) else _VIT


def resize(source: Source) -> str:
    """Returns the interpolation of position embeddings, timm's or that of the family's own code."""
    found = None if families.stated(source) else families.family(source)
    return found[0].resize if found else "antialias"


def read_config(source: Source, **sizes: Any) -> BackboneConfig:
    """Reads the sizes from names and shapes, and the images' statistics from config.json.

    A ViT's `heads`, `eps` and `activation` are taken from `sizes`, or else from the file's
    metadata. By default eps is 1e-6 and the activation "gelu", and the number of heads is that of
    config.json or of timm's plain ViT of the same width. Raises UserError if the number of heads is
    unknown, and for models that our towers do not support.
    """
    resnet = _is_resnet(source)
    if not resnet and not _is_vit(source):
        raise UserError(
            f"{source.where} holds timm's {shown(_architecture(source))}, which is not supported"
            ". Give a plain ViT or ResNet."
        )
    _check_settings(source, "avg" if resnet else "token")
    if resnet:
        if sizes:
            raise UserError(f"{source.where} is a ResNet, which takes no {', '.join(sizes)}.")
        return BackboneConfig(_resnet(source), notes=_assumed(source))
    return BackboneConfig(_vit(source, **sizes))


def _check_settings(source: Source, pool: str) -> None:
    """Raises UserError for settings under which a model computes something else than our tower.

    `pool` is the pooling that our tower has, in timm's words.
    """
    where, c = says(source), source.config
    arguments = {"global_pool": c.get("global_pool"), **declared.part(where, c, "model_args")}
    if (pooled := arguments["global_pool"]) not in (None, "", pool):
        raise UserError(f"{where} the feature is pooled by {shown(pooled)}; expected {pool!r}.")
    if unknown := sorted(set(arguments) - _SHOWN):
        raise UserError(
            f"{where} the model was built with {', '.join(unknown)}, which is not supported. "
            "Give a plain ViT or ResNet."
        )
    name = _architecture(source)
    if pool == "avg" and name and not re.fullmatch(_RESNET_NAMES, name):
        raise UserError(
            f"{where} the model is {shown(name)}, which may compute other features than a plain "
            "ResNet with the same weights; expected resnet50, resnet101 or resnet152."
        )


def _check_names(source: Source) -> None:
    """Raises UserError for names that a plain ViT does not have."""
    known = [re.sub(r"\\\d", r"\\d+", name.replace(".", r"\.")) for _, name, _ in _VIT]
    plain = set(ignored(source.tensors, (*known, *IGNORED)))
    if strange := sorted(source.tensors.keys() - plain):
        raise UserError(
            f"{source.where} is no plain ViT of timm: it holds {', '.join(strange[:3])} (of "
            f"{len(strange)} such names). Give a plain ViT, as of DINOv2, MAE, DeiT or timm."
        )


def _pretrained(source: Source) -> dict[str, Any]:
    """Returns the image settings of config.json, which old files have beside the architecture."""
    return declared.part(says(source), source.config, "pretrained_cfg") or source.config


def _architecture(source: Source) -> str:
    """Returns timm's name of the model, "" without one."""
    return declared.read(says(source), source.config, {"architecture": ""})["architecture"]


def _pixels(source: Source) -> int:
    """Returns the side of a ResNet's images in pixels."""
    size = _pretrained(source).get("input_size", (3, 224, 224))
    sides = size[1:] if isinstance(size, list | tuple) and len(size) == 3 else ()
    return declared.side(says(source), "input_size", sides)


def _statistics(source: Source, mean: Any, std: Any) -> dict[str, Any]:
    """Returns the images' mean and std by config.json, or the given ones if it has none."""
    prepared = _pretrained(source)
    return declared.statistics(says(source), prepared, ("mean", "std"), mean, std)


def _assumed(source: Source) -> tuple[str, ...]:
    """Returns a note on what the weights of a ResNet do not show, if nothing names the model."""
    note = (
        f"{source.where} is taken as a plain ResNet, which its weights alone do not show: it "
        "strides in its 3x3 convolutions, without anti-aliasing or dilation."
    )
    return () if _architecture(source) else (note,)


def _resnet(source: Source) -> ResNetConfig:
    """Returns the sizes of a ResNet. Raises UserError for one without bottlenecks."""
    kind = "plain ResNet of timm"
    channels, layers = bare.stages(source, kind)
    if not any(name.endswith(".conv3.weight") for name in source.tensors):
        raise UserError(
            f"{source.where} is a ResNet of two convolutions a block (18 or 34 layers); expected "
            "bottlenecks of three. Give one with 50, 101 or 152 layers."
        )
    return ResNetConfig(
        resolution=_pixels(source),
        width=EXPANSION * channels[-1],
        stem=bare.shape(source, kind, "conv1.weight", 4)[0],
        channels=channels,
        layers=layers,
        **_statistics(source, IMAGENET_MEAN, IMAGENET_STD),
    )


def _vit(source: Source, **sizes: Any) -> VisionConfig:
    """Returns the sizes of a ViT. Raises UserError if nothing states the number of heads."""
    kind = "plain ViT of timm"
    stated = source.metadata | sizes
    width, _, patch, _ = bare.shape(source, kind, "patch_embed.proj.weight", 4)
    _, tokens, _ = bare.shape(source, kind, "pos_embed", 3)
    mlp, _ = bare.shape(source, kind, "blocks.0.mlp.fc1.weight", 2)
    name = _architecture(source)
    known = _HEADS.get(width) if not name or re.fullmatch(_VIT_NAMES, name) else None
    family = None if families.stated(source) else families.family(source)
    known = dict(family[0].heads).get(width, known) if family else known
    arguments = declared.part(says(source), source.config, "model_args")
    heads = stated.get("heads", arguments.get("num_heads", known))
    if heads is None:
        _check_names(source)
    return VisionConfig(
        resolution=round(max(0, tokens - 1) ** 0.5) * patch,
        patch=patch,
        width=width,
        layers=bare.depth(source, "blocks."),
        heads=bare.known_heads(source, width, heads, name),
        mlp=mlp,
        activation=bare.checked_activation(stated.get("activation", "gelu")),
        eps=bare.checked_eps(stated.get("eps", 1e-6)),
        **_statistics(source, **families.statistics(source)),
        stem_bias=True,
        ln_pre=False,
        layer_scale=any(name.endswith(".ls1.gamma") for name in source.tensors),
        unbiased=() if arguments.get("qkv_bias", True) else ("q", "k", "v"),
    )
