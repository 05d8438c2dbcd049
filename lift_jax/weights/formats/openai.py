"""OpenAI's format: CLIP ViT and ResNet in OpenAI's naming, as a state dict or OpenAI's archives."""

from typing import Any

from lift_jax.models.backbone import BackboneConfig
from lift_jax.models.resnet import ResNetConfig
from lift_jax.models.text import TextConfig
from lift_jax.models.vit import CLIP_MEAN, CLIP_STD, VisionConfig
from lift_jax.weights.files.source import Source
from lift_jax.weights.formats import bare
from lift_jax.weights.rename import Table, linear, norm

# the sizes that names and shapes of the weights do not show
SIZES = ("heads", "text_heads", "eps", "activation")
# Sizes that OpenAI's archives repeat as arrays, and the causal mask in open_clip's archives.
IGNORED = ("input_resolution", "context_length", "vocab_size", r"(text\.)?attn_mask", bare.COUNTS)


def recognises(source: Source) -> bool:
    """Returns True for the names of OpenAI's towers."""
    return any(name.startswith(("visual.", "transformer.resblocks.")) for name in source.tensors)


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
    return any(name.startswith("visual.layer") for name in source.tensors)


def table(source: Source) -> Table:
    """Returns the rename table of a ViT or of this ResNet, with the text tower."""
    if _is_resnet(source):
        return [*_TEXT, *_RESNET, *bare.bottlenecks(source, "visual.")]
    return [*_TEXT, *_VIT]


def resize(source: Source) -> str:
    """Returns the interpolation of position embeddings, which is open_clip's."""
    return "antialias"


def read_config(source: Source, **sizes: Any) -> BackboneConfig:
    """Reads the sizes from the names and shapes of the weights.

    The sizes in SIZES are taken from `sizes`. By default they follow OpenAI's rule: heads 64 wide,
    also in a ResNet's attention pool; LayerNorms with eps 1e-5; quick_gelu. Raises UserError if the
    names are not those of OpenAI's CLIP, or for sizes that do not fit.
    """
    resnet = _is_resnet(source)
    kind = f"CLIP {'ResNet' if resnet else 'ViT'} in OpenAI's naming"

    def shape(name: str, axes: int) -> tuple[int, ...]:
        return bare.shape(source, kind, name, axes)

    def heads(width: int, key: str) -> int:
        return bare.checked_heads(source, width, key, sizes.get(key, max(1, width // 64)))

    def assumed(heads: int, text: TextConfig) -> tuple[str, ...]:
        """Returns a note on the sizes taken by OpenAI's rule, because other CLIPs differ."""
        values = dict(zip(SIZES, (heads, text.heads, text.eps, text.activation), strict=True))
        by_rule = [f"{size} {value}" for size, value in values.items() if size not in sizes]
        note = f"The weights do not say, so by OpenAI's rule: {', '.join(by_rule)}."
        return (note,) if by_rule else ()

    def tower(prefix: str, width: int, key: str) -> tuple[int, int, int, int, str, float]:
        """Returns (width, layers, heads, width of the MLP, activation, eps) of a tower."""
        layers = bare.depth(source, f"{prefix}.resblocks.")
        mlp, _ = shape(f"{prefix}.resblocks.0.mlp.c_fc.weight", 2)
        return width, layers, heads(width, key), mlp, activation, eps

    activation = bare.checked_activation(sizes.get("activation", "quick_gelu"))
    eps = bare.checked_eps(sizes.get("eps", 1e-5))
    vocab, text_width = shape("token_embedding.weight", 2)
    context, _ = shape("positional_embedding", 2)
    _, embed = shape("text_projection", 2)
    text = TextConfig(vocab, context, *tower("transformer", text_width, "text_heads"))
    if resnet:
        stem = shape("visual.conv3.weight", 4)[0]
        tokens, _ = shape("visual.attnpool.positional_embedding", 2)
        channels, layers = bare.stages(source, kind, "visual.")
        vision = ResNetConfig(
            round(max(0, tokens - 1) ** 0.5) * 32, embed, stem, channels, layers,
            heads=heads(4 * channels[-1], "heads"), mean=CLIP_MEAN, std=CLIP_STD,
        )  # fmt: skip
        return BackboneConfig(
            vision, text, embed, projections=("text",), notes=assumed(vision.heads, text)
        )
    width, _, patch, _ = shape("visual.conv1.weight", 4)
    tokens, _ = shape("visual.positional_embedding", 2)
    resolution = round(max(0, tokens - 1) ** 0.5) * patch
    vision = VisionConfig(resolution, patch, *tower("visual.transformer", width, "heads"))
    return BackboneConfig(vision, text, embed, notes=assumed(vision.heads, text))
