"""CLIP ViT in OpenAI's own naming, as a state dict in one safetensors file."""

import re
from collections.abc import Mapping

import numpy as np

from lift_jax.errors import UserError
from lift_jax.models.clip import ClipConfig
from lift_jax.models.text import TextConfig
from lift_jax.models.vit import VisionConfig
from lift_jax.weights.rename import Table, linear, norm

SIZES = ("heads", "text_heads")  # what the names and shapes of the weights do not tell


def _blocks(ours: str, theirs: str) -> Table:
    block, name = rf"{ours}/blocks/(\d+)", rf"{theirs}.resblocks.\1"
    rules = [*norm(f"{block}/ln1", f"{name}.ln_1"), *norm(f"{block}/ln2", f"{name}.ln_2")]
    for i, a in enumerate("qkv"):
        rules.append((f"{block}/{a}/kernel", f"{name}.attn.in_proj_weight", f"linear:{i}/3"))
        rules.append((f"{block}/{a}/bias", f"{name}.attn.in_proj_bias", f"same:{i}/3"))
    for a, b in (("out", "attn.out_proj"), ("fc1", "mlp.c_fc"), ("fc2", "mlp.c_proj")):
        rules += linear(f"{block}/{a}", f"{name}.{b}")
    return rules


TABLE: Table = [
    ("visual/stem/linear/kernel", "visual.conv1.weight", "stem"),
    ("visual/cls", "visual.class_embedding", "same"),
    ("visual/positions", "visual.positional_embedding", "same"),
    *norm("visual/ln_pre", "visual.ln_pre"),
    *norm("visual/ln_post", "visual.ln_post"),
    ("text/tokens", "token_embedding.weight", "same"),
    ("text/positions", "positional_embedding", "same"),
    *norm("text/ln_final", "ln_final"),
    *_blocks("visual", "visual.transformer"),
    *_blocks("text", "transformer"),
    ("image_proj", "visual.proj", "same"),
    ("text_proj", "text_projection", "same"),
    ("logit_scale", "logit_scale", "same"),
]
# sizes that OpenAI's archives repeat as arrays
IGNORED = ("input_resolution", "context_length", "vocab_size")


def read_config(source: Mapping[str, np.ndarray], where: str, **sizes: int) -> ClipConfig:
    """Reads the sizes off the shapes; heads are 64 wide unless `sizes` gives `heads`, `text_heads`.

    Raises UserError if the names are not those of OpenAI's CLIP ViT.
    """

    def shape(name: str, axes: int) -> tuple[int, ...]:
        if name not in source or source[name].ndim != axes:
            found = f"found {source[name].shape}" if name in source else "found none"
            raise UserError(
                f"{where} is not a CLIP ViT in OpenAI's naming: expected {name} with {axes} axes, "
                f"{found}. Give a Hugging Face folder, or a state dict of OpenAI's CLIP."
            )
        return source[name].shape

    def tower(prefix: str, width: int, key: str) -> tuple[int, int, int]:
        """Layers, heads and width of the MLP."""
        pattern = re.compile(rf"{re.escape(prefix)}\.resblocks\.(\d+)\.")
        found = {int(m[1]) for name in source if (m := pattern.match(name))}
        heads = sizes.get(key) or max(1, width // 64)
        if width % heads:
            raise UserError(f"{where}: width {width} is not a multiple of {key}={heads}.")
        mlp, _ = shape(f"{prefix}.resblocks.0.mlp.c_fc.weight", 2)
        return max(found) + 1, heads, mlp

    width, _, patch, _ = shape("visual.conv1.weight", 4)
    tokens, _ = shape("visual.positional_embedding", 2)
    vocab, text_width = shape("token_embedding.weight", 2)
    context, _ = shape("positional_embedding", 2)
    resolution = round((tokens - 1) ** 0.5) * patch
    layers, heads, mlp = tower("visual.transformer", width, "heads")
    vision = VisionConfig(resolution, patch, width, layers, heads, mlp)
    layers, heads, mlp = tower("transformer", text_width, "text_heads")
    text = TextConfig(vocab, context, text_width, layers, heads, mlp)
    return ClipConfig(vision, text, embed=shape("text_projection", 2)[1])
