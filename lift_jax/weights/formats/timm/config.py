"""timm's config.json, and the sizes of a model by it, its name, and its names and shapes."""

import math
import re
from collections.abc import Mapping
from typing import Any

from lift_jax.errors import UserError, shown
from lift_jax.models.backbone import BackboneConfig
from lift_jax.models.blocks.layers import ACTIVATIONS
from lift_jax.models.resnet import EXPANSION, IMAGENET_MEAN, IMAGENET_STD, ResNetConfig
from lift_jax.models.vit.config import VisionConfig
from lift_jax.weights.files.source import Source
from lift_jax.weights.formats import bare, declared, families
from lift_jax.weights.formats.huggingface import says
from lift_jax.weights.formats.timm.names import (
    DINOV3_NAMES,
    OWN_NAMES,
    PAIRED_NAMES,
    PE_NAMES,
    RESNET_NAMES,
    architecture,
    arguments_of,
    heads_of,
    is_eva,
    is_known,
    named,
    trait_of,
)
from lift_jax.weights.formats.timm.tensors import (
    IGNORED,
    head_width,
    is_gated,
    is_resnet,
    is_vit,
    registers_name,
    table,
)
from lift_jax.weights.rename import ignored

# the sizes that names and shapes of a ViT's weights do not show
SIZES = ("heads", "eps", "activation")
# the names of activations in a config -> ours
_ACTIVATIONS = {"swish": "silu"} | {name: name for name in ACTIVATIONS}
# the pooling in timm's words -> ours
_POOLS = {"token": "cls", "avg": "avg", "map": "map"}
# The constructor's arguments that names and shapes show, or that do not change the features.
_SHOWN = {
    "num_classes", "in_chans", "img_size", "patch_size", "embed_dim", "depth", "mlp_ratio",
    "num_heads", "qkv_bias", "proj_bias", "class_token", "no_embed_class", "reg_tokens", "pre_norm",
    "final_norm", "fc_norm", "global_pool", "init_values", "layers", "channels", "qk_norm",
    "scale_attn_norm", "scale_mlp_norm", "dynamic_img_size", "dynamic_img_pad", "strict_img_size",
    "drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate",
    "drop_path_rate", "weight_init", "fix_init",
}  # fmt: skip
_SHOWN_OF_EVA = {
    "swiglu_mlp", "swiglu_align_to", "scale_mlp", "scale_attn_inner", "qkv_fused",
    "qkv_bias_separate", "num_reg_tokens", "use_fc_norm", "use_post_transformer_norm",
    "head_init_scale", "ref_feat_shape", "attn_pool_num_heads", "attn_pool_mlp_ratio",
}  # fmt: skip
_EVA2_BASE, _EVA2_GRID, _DINOV3_BASE = 10_000.0, 16, 100.0  # of rotary positions
_PE_POOL_HEADS = 8


def recognises(source: Source) -> bool:
    """Returns True for timm's config, and for the names of its ViT or ResNet."""
    if "attnpool.positional_embedding" in source.tensors:
        return False  # CLIP's ResNet
    return "architecture" in source.config or is_vit(source) or is_resnet(source)


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
    resnet = is_resnet(source)
    if not resnet and not is_vit(source):
        raise UserError(
            f"{source.where} holds timm's {shown(architecture(source))}, which is not supported"
            ". Give a plain ViT or ResNet."
        )
    _check_settings(source, ("avg",) if resnet else _poolings(source))
    if resnet:
        if sizes:
            raise UserError(f"{source.where} is a ResNet, which takes no {', '.join(sizes)}.")
        return BackboneConfig(_resnet(source), notes=_assumed(source))
    vision = _vit(source, **sizes)
    return BackboneConfig(vision, notes=_taken(source, vision, sizes))


def _poolings(source: Source) -> tuple[str, ...]:
    """Returns the poolings that a ViT with these weights can have, in timm's words.

    The first is that of a model whose config states none.
    """
    tensors = source.tensors
    if "attn_pool.latent" in tensors:
        return ("map",)
    if "dist_token" in tensors:
        return ("token",)
    if "cls_token" not in tensors:
        return ("avg",)
    mean = "fc_norm.weight" in tensors or named(source, DINOV3_NAMES)
    return ("avg", "token") if mean else ("token", "avg")


def _check_settings(source: Source, pools: tuple[str, ...]) -> None:
    """Raises UserError for settings under which a model computes something else than our tower.

    `pools` are the poolings that the weights allow, in timm's words.
    """
    where, arguments = says(source), arguments_of(source)
    if (pooled := arguments.get("global_pool")) not in (None, "", *pools):
        raise UserError(
            f"{where} the feature is pooled by {shown(pooled)}; expected "
            f"{' or '.join(map(repr, pools))}, which fit its weights."
        )
    allowed = _SHOWN | (set() if is_resnet(source) else {"act_layer"})
    allowed |= {name for name in ("pool_include_prefix",) if not arguments.get(name)}
    allowed |= _SHOWN_OF_EVA if is_eva(source) else set()
    if unknown := sorted(set(arguments) - allowed):
        raise UserError(
            f"{where} the model was built with {', '.join(unknown)}, which is not supported. "
            "Give a plain ViT or ResNet."
        )
    act = arguments.get("act_layer")
    if act is not None and (not isinstance(act, str) or act not in _ACTIVATIONS):
        raise UserError(
            f"{where} the model was built with act_layer {shown(act)}; expected one of "
            f"{', '.join(_ACTIVATIONS)}."
        )
    name = architecture(source)
    if not is_resnet(source) and named(source, OWN_NAMES) and not is_known(source):
        raise UserError(
            f"{where} the model is {shown(name)}, which may compute other features than a ViT of "
            "timm with the same weights. Give a plain ViT, or one of DINOv2, DINOv3, DeiT, SigLIP, "
            "CLIP, EVA-02 or gap; or state the name of the one that it is in config.json."
        )
    if is_resnet(source) and name and not re.fullmatch(RESNET_NAMES, name):
        raise UserError(
            f"{where} the model is {shown(name)}, which may compute other features than a plain "
            "ResNet with the same weights; expected resnet50, resnet101 or resnet152."
        )


def _check_names(source: Source) -> None:
    """Raises UserError for names that a plain ViT does not have."""
    known = [re.sub(r"\\\d", r"\\d+", name.replace(".", r"\.")) for _, name, _ in table(source)]
    plain = set(ignored(source.tensors, (*known, *IGNORED)))
    if strange := sorted(source.tensors.keys() - plain):
        raise UserError(
            f"{source.where} is no plain ViT of timm: it holds {', '.join(strange[:3])} (of "
            f"{len(strange)} such names). Give a plain ViT, as of DINOv2, MAE, DeiT or timm."
        )


def _pretrained(source: Source) -> dict[str, Any]:
    """Returns the image settings of config.json, which old files have beside the architecture."""
    return declared.part(says(source), source.config, "pretrained_cfg") or source.config


def _pixels(source: Source) -> int:
    """Returns the side of the images in pixels, where no weight shows it."""
    if (side := arguments_of(source).get("img_size")) is not None:
        return declared.side(says(source), "img_size", side)
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
    return () if architecture(source) else (note,)


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
    kind, tensors = "ViT of timm", source.tensors
    stated = source.metadata | sizes
    width, _, patch, _ = bare.shape(source, kind, "patch_embed.proj.weight", 4)
    _, hidden = bare.shape(source, kind, "blocks.0.mlp.fc2.weight", 2)
    arguments, gated, tokens = arguments_of(source), is_gated(source), _tokens(source, patch)
    heads = stated.get("heads", arguments.get("num_heads", heads_of(source, width)))
    if heads is None:
        _check_names(source)
    pre = "norm_pre.weight" in tensors  # as in CLIP
    if named(source, PAIRED_NAMES) and heads != width // head_width(source):
        raise UserError(
            f"{source.where} has heads {head_width(source)} wide; leave out heads={heads}."
        )
    act = _ACTIVATIONS[arguments.get("act_layer") or trait_of(source, "activation", "gelu")]
    return VisionConfig(
        patch=patch,
        width=width,
        layers=bare.depth(source, "blocks."),
        heads=bare.known_heads(source, width, heads, architecture(source)),
        mlp=hidden,
        activation=bare.checked_activation(stated.get("activation", "silu" if gated else act)),
        eps=bare.checked_eps(stated.get("eps", 1e-5 if pre else trait_of(source, "eps", 1e-6))),
        **_statistics(source, **families.statistics(source)),
        stem_bias="patch_embed.proj.bias" in tensors or not pre,
        ln_pre=pre,
        layer_scale=any(name.endswith((".ls1.gamma", ".gamma_1")) for name in tensors),
        gated=gated,
        unbiased=_unbiased(source),
        inner_norms=tuple(
            layer
            for layer, name in (("out", "attn.norm"), ("fc2", "mlp.norm"))
            if f"blocks.0.{name}.weight" in tensors
        ),
        **_rotary(source),
        **tokens,
    )


def _unbiased(source: Source) -> tuple[str, ...]:
    """Returns the names of the layers that have no bias in any block."""
    names = {
        "q": r"attn\.(qkv\.|q_|q_proj\.)", "k": r"attn\.(qkv\.|k_|k_proj\.)",
        "v": r"attn\.(qkv\.|v_|v_proj\.)", "out": r"attn\.proj\.", "gate": r"mlp\.fc1(_g)?\.",
        "fc1": r"mlp\.fc1(_x)?\.", "fc2": r"mlp\.fc2\.",
    }  # fmt: skip
    biases = " ".join(name for name in source.tensors if name.endswith("bias"))
    return tuple(layer for layer, name in names.items() if not re.search(rf"\.{name}bias", biases))


def _rotary(source: Source) -> dict[str, Any]:
    """Returns the sizes of rotary positions, empty for a ViT without them.

    Raises UserError for an EVA-02 or PE-Core whose grid of rotary positions is no square.
    """
    if named(source, DINOV3_NAMES):
        return {"rope": _DINOV3_BASE}
    if not named(source, PAIRED_NAMES):
        return {}
    grid, more = _EVA2_GRID, {}
    if pe := re.fullmatch(PE_NAMES, architecture(source)):
        patch, pixels = int(pe[2]), int(pe[3])
        grid = pixels // max(1, patch)
        more = {"rope_order": "xy", "rope_start": int("cls_token" in source.tensors)}
    side = arguments_of(source).get("ref_feat_shape", grid)
    side = declared.side(says(source), "ref_feat_shape", side)
    return {"rope": _EVA2_BASE, "rope_grid": side, **more}


def _tokens(source: Source, patch: int) -> dict[str, Any]:
    """Returns the sizes that say which tokens there are, which have positions, and the pooling.

    Raises UserError if the number of positions does not fit the tokens.
    """
    tensors, arguments = source.tensors, arguments_of(source)
    cls, own = "cls_token" in tensors, tensors.get(registers_name(source))
    registers = own.shape[1] if own is not None and own.ndim == 3 else 0
    if named(source, DINOV3_NAMES):
        side, _ = declared.whole_patches(says(source), _pixels(source), patch)
        return _pooling(source) | {"resolution": side, "registers": registers}
    _, places, _ = bare.shape(source, "ViT of timm", "pos_embed", 3)
    fitting = {
        positioned: side
        for positioned, count in (("all", cls + registers), ("none", 0))
        if (side := math.isqrt(max(0, places - count))) and side**2 == places - count
    }
    if len(fitting) == 2 and cls + registers:
        del fitting["all" if arguments.get("no_embed_class") else "none"]
    if not fitting:
        held = [name for name in ("cls_token", registers_name(source)) if name in tensors]
        raise UserError(
            f"{source.where} holds pos_embed of {places} places and {cls + registers} tokens "
            f"before the patches ({' and '.join(held) or 'neither cls_token nor reg_token'}); "
            "expected places of a square of patches, with or without those of these tokens. Get "
            "the file again."
        )
    positioned, side = next(iter(fitting.items()))
    if positioned == "all" and not registers or not cls + registers:
        positioned = "cls"
    return _pooling(source) | {
        "resolution": side * patch,
        "registers": registers,
        "positioned": positioned,
    }


def _pooling(source: Source) -> dict[str, Any]:
    """Returns the sizes that say how the feature is taken.

    Raises UserError for the name of a PE-Core with the weights of another model.
    """
    tensors, arguments = source.tensors, arguments_of(source)
    cls, pool = "cls_token" in tensors, _POOLS[arguments.get("global_pool") or _poolings(source)[0]]
    last = "after" if "fc_norm.weight" in tensors and pool != "cls" else "before"
    name, normed = architecture(source), {"norm.weight", "fc_norm.weight"} & tensors.keys()
    if not normed and (arguments.get("final_norm") is False or re.search("radio|intern", name)):
        last = "none"
    more = {}
    if named(source, PE_NAMES):
        if "norm_pre.weight" not in tensors or cls == ("gigantic" in name):
            raise UserError(
                f"{says(source)} the model is {shown(name)}, whose weights hold norm_pre.weight "
                "and (but for the gigantic one) cls_token. Get file and config from one source."
            )
        hidden, _ = bare.shape(source, "PE-Core of timm", "attn_pool.mlp.fc1.weight", 2)
        default = {"attn_pool_num_heads": _PE_POOL_HEADS}
        heads = declared.read(says(source), arguments, default, "model_args.")
        more = {"pool_heads": heads["attn_pool_num_heads"], "pool_mlp": hidden}
        pool = "map_all"
    return {
        "pool": "pair" if "dist_token" in tensors else pool,
        "class_token": None if cls == (pool == "cls") else cls,
        "last_norm": last,
        **more,
    }


def _taken(source: Source, vision: VisionConfig, given: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns notes on what the weights of a ViT do not show, if its name does not either."""
    name = architecture(source)
    if is_known(source):
        return ()
    known = {"eps": vision.eps, "activation": vision.activation}
    taken = [f"{size} {value}" for size, value in known.items() if size not in given]
    notes = []
    if taken and (name or vision.ln_pre or vision.pool == "map"):
        said = f"its name {shown(name)} does" if name else "the weights do"
        notes.append(
            f"{source.where}: {said} not say which activation and epsilon it has. Taken: "
            f"{', '.join(taken)}. For others give activation= and eps= (--activation, --eps)."
        )
    if vision.pool == "avg" and not arguments_of(source).get("global_pool"):
        notes.append(
            f"{source.where} does not say how its tokens are pooled. Taken: the mean of the "
            "patches, as in timm's ViTs with such weights."
        )
    return tuple(notes)
