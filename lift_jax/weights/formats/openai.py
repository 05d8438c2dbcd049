"""OpenAI's format: CLIP ViT and ResNet in OpenAI's naming, as a state dict or OpenAI's archives.

The image tower alone is read too, with or without "visual." before its names. Its feature is then
that before the projection to the texts, which is left out.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lift_jax.models.backbone import BackboneConfig
from lift_jax.models.resnet import ResNetConfig
from lift_jax.models.text import TextConfig
from lift_jax.models.vit.config import CLIP_MEAN, CLIP_STD, VisionConfig
from lift_jax.weights.files.source import Source
from lift_jax.weights.formats import bare
from lift_jax.weights.rename import Table, linear, norm

# the sizes that names and shapes of the weights do not show
SIZES = ("heads", "text_heads", "eps", "activation")
# Sizes that OpenAI's archives repeat as arrays, and the causal mask in open_clip's archives.
IGNORED = (
    "input_resolution", "context_length", "vocab_size", r"(text\.)?attn_mask", bare.COUNTS,
    r"(visual\.)?proj",
)  # fmt: skip


def recognises(source: Source) -> bool:
    """Returns True for the names of OpenAI's towers."""
    begins = ("visual.", "transformer.resblocks.", "class_embedding", "attnpool.")
    return any(name.startswith(begins) for name in source.tensors)


def _prefix(source: Source) -> str:
    """Returns the beginning of the image tower's names."""
    return "visual." if any(name.startswith("visual.") for name in source.tensors) else ""


def _is_alone(source: Source) -> bool:
    """Returns True for an image tower without a text tower."""
    prefix = _prefix(source)
    return not prefix or all(name.startswith(prefix) for name in source.tensors)


def _blocks(ours: str, theirs: str) -> Table:
    """Returns the rules of a tower's blocks."""
    block, name = rf"{ours}/blocks/(\d+)", rf"{theirs}.resblocks.\1"
    rules = [*norm(f"{block}/ln1", f"{name}.ln_1"), *norm(f"{block}/ln2", f"{name}.ln_2")]
    for i, a in enumerate("qkv"):
        rules.append((f"{block}/{a}/kernel", f"{name}.attn.in_proj_weight", f"linear:{i}/3"))
        rules.append((f"{block}/{a}/bias", f"{name}.attn.in_proj_bias", f"same:{i}/3"))
    for a, b in (("out", "attn.out_proj"), ("fc1", "mlp.c_fc"), ("fc2", "mlp.c_proj")):
        rules += linear(f"{block}/{a}", f"{name}.{b}")
    return rules


_TEXT: Table = [
    ("text/tokens", "token_embedding.weight", "same"),
    ("text/positions", "positional_embedding", "same"),
    *norm("text/ln_final", "ln_final"),
    *_blocks("text", "transformer"),
    ("text_proj", "text_projection", "same"),
    ("logit_scale", "logit_scale", "same"),
]
_VIT: Table = [
    ("visual/stem/linear/kernel", "visual.conv1.weight", "stem"),
    ("visual/cls", "visual.class_embedding", "same"),
    ("visual/positions", "visual.positional_embedding", "same"),
    *norm("visual/ln_pre", "visual.ln_pre"),
    *norm("visual/ln_post", "visual.ln_post"),
    *_blocks("visual", "visual.transformer"),
    ("image_proj", "visual.proj", "same"),
]
_RESNET: Table = [
    ("visual/pool/positions", "visual.attnpool.positional_embedding", "same"),
    *linear("visual/pool/out", "visual.attnpool.c_proj"),
    *linear("visual/pool/([qkv])", r"visual.attnpool.\1_proj"),
]
for _i in range(3):
    _RESNET.append((f"visual/stem/convs/{_i}/kernel", f"visual.conv{_i + 1}.weight", "conv"))
    _RESNET += bare.batch_norm(f"visual/stem/bns/{_i}", f"visual.bn{_i + 1}")


def _is_resnet(source: Source) -> bool:
    return any(name.startswith(f"{_prefix(source)}layer") for name in source.tensors)


def table(source: Source) -> Table:
    """Returns the rename table of a ViT or of this ResNet, with the text tower if there is one."""
    prefix, text = _prefix(source), [] if _is_alone(source) else _TEXT
    tower = _RESNET if _is_resnet(source) else _VIT
    rules = [(ours, prefix + name.removeprefix("visual."), how) for ours, name, how in tower]
    return [*text, *rules, *(bare.bottlenecks(source, prefix) if tower is _RESNET else ())]


def resize(source: Source) -> str:
    """Returns the interpolation of position embeddings, which is open_clip's."""
    return "antialias"


def read_config(source: Source, **sizes: Any) -> BackboneConfig:
    """Reads the sizes from the names and shapes of the weights.

    The sizes in SIZES are taken from `sizes`, or else from the file's metadata. By default they
    follow OpenAI's rule: heads 64 wide, also in a ResNet's attention pool; LayerNorms with eps
    1e-5; quick_gelu. Raises UserError if the names are not those of OpenAI's CLIP, or for sizes
    that do not fit.
    """
    stated, notes = bare.stated(source, _widths(source), sizes)
    sizes = stated | sizes
    resnet, prefix = _is_resnet(source), _prefix(source)
    kind = f"CLIP {'ResNet' if resnet else 'ViT'} in OpenAI's naming"

    def shape(name: str, axes: int) -> tuple[int, ...]:
        return bare.shape(source, kind, name, axes)

    def heads(width: int, key: str) -> int:
        return bare.checked_heads(source, width, key, sizes.get(key, max(1, width // 64)))

    def tower(begins: str, width: int, key: str) -> tuple[int, int, int, int, str, float]:
        """Returns (width, layers, heads, width of the MLP, activation, eps) of a tower."""
        layers = bare.depth(source, f"{begins}.resblocks.")
        mlp, _ = shape(f"{begins}.resblocks.0.mlp.c_fc.weight", 2)
        return width, layers, heads(width, key), mlp, activation, eps

    activation = bare.checked_activation(sizes.get("activation", "quick_gelu"))
    eps = bare.checked_eps(sizes.get("eps", 1e-5))
    text, embed = None, 0
    if not _is_alone(source):
        vocab, text_width = shape("token_embedding.weight", 2)
        context, _ = shape("positional_embedding", 2)
        _, embed = shape("text_projection", 2)
        text = TextConfig(vocab, context, *tower("transformer", text_width, "text_heads"))
    if resnet:
        stem = shape(f"{prefix}conv3.weight", 4)[0]
        tokens, _ = shape(f"{prefix}attnpool.positional_embedding", 2)
        channels, layers = bare.stages(source, kind, prefix)
        features = embed or shape(f"{prefix}attnpool.c_proj.weight", 2)[0]
        vision = ResNetConfig(
            round(max(0, tokens - 1) ** 0.5) * 32, features, stem, channels, layers,
            heads=heads(4 * channels[-1], "heads"), mean=CLIP_MEAN, std=CLIP_STD,
        )  # fmt: skip
    else:
        width, _, patch, _ = shape(f"{prefix}conv1.weight", 4)
        tokens, _ = shape(f"{prefix}positional_embedding", 2)
        resolution = round(max(0, tokens - 1) ** 0.5) * patch
        vision = VisionConfig(resolution, patch, *tower(f"{prefix}transformer", width, "heads"))
    return BackboneConfig(
        vision, text, embed, projections=("text",) if resnet else ("image", "text"),
        notes=notes + _assumed(vision.heads, text, eps, activation, sizes),
    )  # fmt: skip


def _widths(source: Source) -> dict[str, int]:
    """Returns the widths that the numbers of heads divide, of the towers that the source has."""
    image = "attnpool.q_proj.weight" if _is_resnet(source) else "conv1.weight"
    names = {"heads": _prefix(source) + image, "text_heads": "ln_final.weight"}
    shapes = {size: np.shape(source.tensors.get(name, ())) for size, name in names.items()}
    return {size: shape[0] for size, shape in shapes.items() if shape and shape[0]}


def _assumed(
    heads: int, text: TextConfig | None, eps: float, activation: str, given: Mapping[str, Any]
) -> tuple[str, ...]:
    """Returns a note on the sizes taken by OpenAI's rule, because other CLIPs differ."""
    values = {"heads": heads, "text_heads": text.heads if text else 0}
    values = values | {"eps": eps, "activation": activation}
    by_rule = [f"{k} {value}" for k, value in values.items() if k not in given and value]
    note = f"The weights do not say, so by OpenAI's rule: {', '.join(by_rule)}."
    return (note,) if by_rule else ()
