"""Families of bare weights: how their images are normalised, by what is in a file or by its name.

A state dict without a config does not state the mean and standard deviation of its images, and with
others a backbone loses much of its accuracy. What the file holds counts first (keys around the
state dict, names, shapes), then its name. A note says what was taken and why.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lift_jax.models.backbone import BackboneConfig
from lift_jax.models.resnet import IMAGENET_MEAN, IMAGENET_STD, ResNetConfig
from lift_jax.models.vit.config import CLIP_MEAN, CLIP_STD
from lift_jax.weights.files.source import CONFIG, WEIGHTS, Source

Triple = tuple[float, float, float]

HALF: Triple = (0.5, 0.5, 0.5)
SATELLITE_MEAN, SATELLITE_STD = (0.43, 0.411, 0.296), (0.213, 0.156, 0.143)
IN21K = (21841, 21843)  # numbers of classes of ImageNet-21k
# the classes of values, for notes
_TITLES = {
    (IMAGENET_MEAN, IMAGENET_STD): "ImageNet's",
    (CLIP_MEAN, CLIP_STD): "CLIP's",
    (SATELLITE_MEAN, SATELLITE_STD): "those of satellite images",
}
GIVE = "give mean= and std= (model.mean and model.std; --mean and --std of convert)"


@dataclass(frozen=True)
class Family:
    """Weights that were trained in one way.

    Attributes:
        title: the name of the family, for notes.
        mean, std: of RGB values in 0..1.
        words: a pattern of names of files, "" for none.
        sign: returns what in a source shows the family, "" if nothing does.
        weak: True for a sign that a file's name outweighs.
        resize: the interpolation of position embeddings in the family's code (positions.py).
        heads: numbers of heads by width, where they differ from those of other ViTs.
    """

    title: str
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    words: str = ""
    sign: Callable[[Source], str] = lambda source: ""
    weak: bool = False
    resize: str = "antialias"
    heads: tuple[tuple[int, int], ...] = ()


def _named(*patterns: str) -> Callable[[Source], str]:
    """Returns a sign: the first name, kept or left out, that fits one of the patterns in full."""

    def sign(source: Source) -> str:
        for pattern in map(re.compile, patterns):
            for name in (*source.tensors, *source.left_out):
                if pattern.fullmatch(name):
                    return f"it holds {name:.80}"
        return ""

    return sign


def _under(*prefixes: str) -> Callable[[Source], str]:
    """Returns a sign: one of these words in the prefix of the names, or in those left out."""

    def sign(source: Source) -> str:
        for name in (source.prefix, *source.left_out):
            for prefix in prefixes:
                if f".{prefix}." in f".{name}":
                    return f"its names begin {prefix!r}"
        return ""

    return sign


def _teacher(source: Source) -> str:
    held = [key for key in ("teacher", "student") if key in source.keys]
    return f"its state dict lay under {held[0]!r}" if held else ""


def _model(source: Source) -> str:
    return "its state dict lay under 'model'" if "model" in source.keys else ""


def _satellite(source: Source) -> str:
    """Returns the sign of DINOv3's ViT-L of SAT-493M: it alone of its width has a local norm."""
    tensors = source.tensors
    if "local_cls_norm.weight" in tensors and tensors["local_cls_norm.weight"].shape == (1024,):
        return "it is a ViT-L that holds local_cls_norm"
    return ""


def _dinov2(source: Source) -> str:
    scaled = any(name.endswith(".ls1.gamma") for name in source.tensors)
    mask = source.tensors.get("mask_token")
    if scaled and mask is not None and mask.ndim == 2:
        return "it holds mask_token and ls1.gamma"
    stem = source.tensors.get("patch_embed.proj.weight")
    if scaled and stem is not None and stem.shape[-1] == 14:
        return "it holds ls1.gamma, and its patches are 14 pixels"
    return ""


def _in21k(source: Source) -> str:
    if "pre_logits.fc.weight" in source.tensors:
        return "it holds pre_logits.fc.weight"
    classes = source.tensors.get("head.weight")
    if classes is not None and classes.ndim == 2 and len(classes) in IN21K:
        return f"its head has the {len(classes):,} classes of ImageNet-21k"
    return ""


# the families, those with the surest signs first
FAMILIES = (
    Family(
        "DINOv3 on SAT-493M", SATELLITE_MEAN, SATELLITE_STD, words=r"sat493m|eadcf0ff",
        sign=_satellite,
    ),
    Family("DINOv3", words="dinov3", sign=_named(r"rope_embed\.periods", "storage_tokens")),
    Family("TIPSv2", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), words="tips(v2)?"),
    Family("DINOv2", words="dinov2", sign=_dinov2, resize="offset"),
    Family(
        "MoCo v3", words=r"moco[-_.]?v?3", sign=_under("base_encoder", "momentum_encoder"),
        resize="plain", heads=((384, 12),),
    ),
    Family("MoCo", words="moco", sign=_under("encoder_q", "encoder_k")),
    Family(
        "MAE", words="mae", sign=_named(r"decoder_(embed|pred|norm)\..*", "decoder_pos_embed"),
        resize="plain",
    ),
    Family(
        "iBOT", words="ibot", sign=_named("masked_embed", r".*head\.(mlp2|last_layer2)\..*"),
        resize="offset",
    ),
    Family(
        "DINO", words="dino(?!v)", sign=_named(r".*head\.last_layer\.weight_[gv]"), resize="offset"
    ),
    Family("DINO or iBOT", sign=_teacher, resize="offset"),
    Family(
        "DeiT", words="deit", sign=_named("dist_token", r"blocks\.\d+\.gamma_1"), resize="plain"
    ),
    Family("CLIP in timm's naming", CLIP_MEAN, CLIP_STD, sign=_named(r"norm_pre\.weight")),
    Family(
        "SigLIP in timm's naming", HALF, HALF, words="siglip2?", sign=_named(r"attn_pool\.latent")
    ),
    Family("timm's ViT of ImageNet-21k", HALF, HALF, words="augreg2?|in21k", sign=_in21k),
    Family("timm's ViT trained with SAM", HALF, HALF, words="sam_in1k"),
    Family("MAE or DeiT", sign=_model, weak=True, resize="plain"),
)  # fmt: skip
_TIPS = next(one for one in FAMILIES if one.title == "TIPSv2")
_BOUNDS = r"(?<![a-z0-9])(?:{})(?![a-z])"  # a word in a name of a file


def family(source: Source) -> tuple[Family, str] | None:
    """Returns (family, what shows it) of a source, or None if nothing does."""
    found = [(one, sign) for one in FAMILIES if (sign := one.sign(source))]
    if sure := [each for each in found if not each[0].weak]:
        return _by_name_among(source, sure)
    for name in names(source):
        for one in FAMILIES:
            if one.words and re.search(_BOUNDS.format(one.words), name.lower()):
                return one, f"its name is {name[:80]!r}"
    return found[0] if found else None


def _by_name_among(source: Source, found: list[tuple[Family, str]]) -> tuple[Family, str]:
    """Returns the first family that a sign shows, unless a name tells it from one with that sign.

    DINOv3 of SAT-493M has the signs of the other DINOv3, and TIPSv2 those of DINOv2.
    """
    first, sign = found[0]
    for name in names(source):
        satellite = FAMILIES[0]
        if first.title == "DINOv3" and re.search(satellite.words, name.lower()):
            return satellite, f"its name is {name[:80]!r}"
        if first is satellite and "lvd1689m" in name.lower():
            return FAMILIES[1], f"its name is {name[:80]!r}"
        if first.title == "DINOv2" and re.search(_BOUNDS.format(_TIPS.words), name.lower()):
            return _TIPS, f"its name is {name[:80]!r}"
    return first, sign


def names(source: Source) -> list[str]:
    """Returns the names under which a source is known: of model, file and folder."""
    known = [source.config.get(key) for key in ("architecture", "_name_or_path")]
    file = source.files[-1].name if source.files and source.path.is_dir() else ""
    known += [source.path.name, file if file not in WEIGHTS else ""]
    return [name for name in known if isinstance(name, str) and name]


def stated(source: Source) -> bool:
    """Returns True if the configs beside a source state how its images are normalised.

    A model type of transformers stands for one way, but for "vit", which DINO and DeiT have too.
    """
    kind = source.config.get("model_type")
    if kind == "vit":
        return {"image_mean", "image_std"} <= source.images.keys()
    pretrained = source.config.get("pretrained_cfg")
    image_settings = pretrained if isinstance(pretrained, dict) else source.config
    return bool(kind or source.open_clip) or {"mean", "std"} <= image_settings.keys()


def statistics(source: Source) -> dict[str, Triple]:
    """Returns {"mean": ..., "std": ...} for a ViT that does not state them."""
    found = family(source)
    return {"mean": found[0].mean if found else HALF, "std": found[0].std if found else HALF}


def note(source: Source, config: BackboneConfig) -> str:
    """Returns a sentence on the normalisation of a source that does not state it: what and why."""
    vision, found = config.vision, family(source)
    values = described(vision.mean, vision.std)
    begins = f"{source.where} does not state how its images are normalised"
    beside = Path(source.where).parent / CONFIG
    if not source.config and beside.exists():
        begins += f" ({beside} may, which is read with the folder: give that)"
    if (vision.mean, vision.std) == (CLIP_MEAN, CLIP_STD):
        why = "its names are those of " + (
            found[0].title if found and found[0].mean == CLIP_MEAN else "OpenAI's CLIP"
        )
    elif isinstance(vision, ResNetConfig):
        why = "the ResNets of torchvision, timm and most others take these"
    elif found:
        why = f"{found[1]}, as in weights of {found[0].title}"
    else:
        return (
            f"{begins}, and nothing in it says which ViT it is. Taken: {values}, as in timm's ViTs "
            f"of ImageNet-21k. DINO, iBOT, MAE, DeiT and most others take "
            f"{described(IMAGENET_MEAN, IMAGENET_STD)}: {GIVE}."
        )
    return f"{begins}. Taken: {values}, because {why}. For others {GIVE}."


def described(mean: Any, std: Any) -> str:
    """Returns mean and std in words, with the name of the values if they have one."""
    title = _TITLES.get((tuple(mean), tuple(std)), "")
    listed = (",".join(f"{x:g}" for x in values) for values in (mean, std))
    return "mean {} and std {}".format(*listed) + (f" ({title})" if title else "")
