"""The rename tables for the leaves that LIFT and LIFT+ tune, one table for each code's names."""

import re
from collections.abc import Iterable, Mapping

from lift_jax.weights.rename import Table, linear, norm

BLOCK = r"visual/blocks/(\d+)"
_PLUS = r"tuner.image_encoder.blocks.\1"  # a block's name in LIFT+
_FUSED = (("q", "0/3"), ("k", "1/3"), ("v", "2/3"))  # one layer of the authors'


def fill(pattern: str, values: Iterable[str]) -> str:
    """Returns the path that a rule's pattern stands for, with values in place of its groups.

    Of two alternatives "(?:a|b)" it takes the first.
    """
    rest = iter(values)
    chosen = re.sub(r"\(\?:(\w+)\|\w+\)", r"\1", pattern)
    return re.sub(r"\([^)]+\)", lambda _: next(rest), chosen)


def _bottleneck(ours: str, theirs: str, layers: str) -> Table:
    """Returns the rules of a tuner of LayerNorm and two linear layers.

    `layers` are the authors' names of the three, separated by spaces.
    """
    layer_norm, down, up = layers.split()
    return [
        *norm(f"{ours}/norm", f"{theirs}.{layer_norm}"),
        *linear(f"{ours}/down", f"{theirs}.{down}"),
        *linear(f"{ours}/up", f"{theirs}.{up}"),
    ]


def _lora(ours: str, theirs: str, leaves: str) -> Table:
    """Returns the rules of a low-rank change; `leaves` are the authors' names of its matrices."""
    down, up = leaves.split()
    return [
        (f"{ours}/down", f"{theirs}.{down}", "same"),
        (f"{ours}/up", f"{theirs}.{up}", "same"),
    ]


def _ssf(ours: str, layers: Mapping[str, str]) -> Table:
    """Returns the rules of scales and shifts, by our layer and the authors' name for it.

    The layer "qkv" stands for our q, k and v.
    """
    return [
        (f"{ours}/{name}/{leaf}", f"{theirs}.{leaf}", f"same{part and ':'}{part}")
        for layer, theirs in layers.items()
        for name, part in (_FUSED if layer == "qkv" else ((layer, ""),))
        for leaf in ("scale", "shift")
    ]


def _block(theirs: str, layers: str) -> Table:
    """Returns the rules of all weights of a block.

    `theirs` begins the authors' names. `layers` are their names of ln1, qkv, out, ln2, fc1 and
    fc2, up to "weight" and "bias".
    """
    ln1, qkv, out, ln2, fc1, fc2 = (theirs + layer for layer in layers.split())
    rules = []
    for ours, name, kernel, layout, part in (
        ("ln1", ln1, "scale", "same", ""),
        *((name, qkv, "kernel", "linear", f":{part}") for name, part in _FUSED),
        ("out", out, "kernel", "linear", ""),
        ("ln2", ln2, "scale", "same", ""),
        ("fc1", fc1, "kernel", "linear", ""),
        ("fc2", fc2, "kernel", "linear", ""),
    ):
        rules.append((f"{BLOCK}/{ours}/{kernel}", f"{name}weight", layout + part))
        rules.append((f"{BLOCK}/{ours}/bias", f"{name}bias", f"same{part}"))
    return rules


def _plus(tower: str, encoder: str) -> Table:
    """Returns the rules of LIFT+'s tuners in the blocks of our `tower`, their `encoder`."""
    ours, theirs = rf"{tower}/blocks/(\d+)/tuners", rf"tuner.{encoder}.blocks.\1"
    return [
        *_bottleneck(f"{ours}/adaptformer", f"{theirs}.adaptformer", "norm down up"),
        (f"{ours}/adaptformer/scale", f"{theirs}.adaptformer.scale", "same"),
        *_bottleneck(f"{ours}/adapter", f"{theirs}.mlp.adapter", "norm down up"),
        *_lora(rf"{ours}/lora/(q|v)", rf"{theirs}.attn.lora.\2", "down up"),
        *_ssf(
            f"{ours}/ssf",
            {
                "qkv": f"{theirs}.attn.ssf.in_proj",
                "out": f"{theirs}.attn.ssf.out_proj",
                "fc1": f"{theirs}.mlp.ssf.in_proj",
                "fc2": f"{theirs}.mlp.ssf.out_proj",
            },
        ),
        (f"{ours}/vpt_(?:deep|shallow)/prompt", f"{theirs}.prompt", "same"),
        *_aft(
            f"{ours}/aft",
            {
                "qkv": f"{theirs}.attn.aft.in_proj.masked_",
                "out": f"{theirs}.attn.aft.out_proj.masked_",
                "fc1": f"{theirs}.mlp.aft.in_proj.masked_",
                "fc2": f"{theirs}.mlp.aft.out_proj.masked_",
            },
            {"kernel": "weight.optimized_params", "bias": "bias.optimized_params"},
        ),
    ]


def _aft(ours: str, layers: Mapping[str, str], kinds: Mapping[str, str]) -> Table:
    """Returns the rules of the entries that aft trains.

    `layers` has the beginning of the authors' name by our layer, and `kinds` the rest by our leaf.
    """
    return [
        (f"{ours}/{layer}/{leaf}", f"{theirs}{kind}", "same")
        for layer, theirs in layers.items()
        for leaf, kind in kinds.items()
    ]


# LIFT's names of the weights of a CLIP block in full fine-tuning. Blocks of timm have other names.
LIFT_BLOCK = _block(
    r"tuner.block_tuned.\1.", "ln_1. attn.in_proj_ attn.out_proj. ln_2. mlp.c_fc. mlp.c_proj."
)
# LIFT's names when only biases are tuned. They are numbered through all blocks, in the order of
# CLIP's weights in a block.
LIFT_BIAS: Table = [
    (f"visual/blocks/{block}/{layer}/bias", f"tuner.bias_tuned.{6 * block + i}", layout)
    for block in range(64)
    for i, layers in enumerate(("qkv", "out", "ln1", "fc1", "fc2", "ln2"))
    for layer, layout in (
        [(name, f"same:{part}") for name, part in _FUSED] if layers == "qkv" else [(layers, "same")]
    )
]
# LIFT's names when only LayerNorms are tuned, numbered through all blocks as well.
LIFT_LN: Table = [
    rule
    for block in range(64)
    for i in range(2)
    for rule in norm(f"visual/blocks/{block}/ln{i + 1}", f"tuner.ln_tuned.{2 * block + i}")
]
# The rename table of each layout. A new tuner needs a few rows in each.
TABLES: dict[str, Table] = {
    "lift": [
        *_bottleneck(
            f"{BLOCK}/tuners/adaptformer", r"tuner.adaptformer_list.\1", "ln down_proj up_proj"
        ),
        (f"{BLOCK}/tuners/adaptformer/scale", r"tuner.adaptformer_list.\1.scale", "lead1"),
        *_bottleneck(f"{BLOCK}/tuners/adapter", r"tuner.adapter_list.\1", "ln down_proj up_proj"),
        *_lora(rf"{BLOCK}/tuners/lora/(q|v)", r"tuner.lora_list.\1.\2", "lora_A lora_B"),
        *_lora(rf"{BLOCK}/tuners/lora_mlp/fc(\d)", r"tuner.lora_mlp_list.\1.\2", "down up"),
        *_ssf(
            f"{BLOCK}/tuners/ssf",
            {
                "qkv": r"tuner.ssf_attn_list.\1.attn_in", "out": r"tuner.ssf_attn_list.\1.attn_out",
                "fc1": r"tuner.ssf_mlp_list.\1.mlp_in", "fc2": r"tuner.ssf_mlp_list.\1.mlp_out",
                "ln1": r"tuner.ssf_ln_list.\1.ln_1", "ln2": r"tuner.ssf_ln_list.\1.ln_2",
            },
        ),
        (f"{BLOCK}/tuners/vpt_(?:deep|shallow)/prompt", r"tuner.vpt_list.\1.prompt", "same"),
        *_aft(
            f"{BLOCK}/tuners/aft",
            {
                "qkv": r"tuner.masked_linear_list.\1.attn_in.optimized_",
                "out": r"tuner.masked_linear_list.\1.attn_out.optimized_",
                "fc1": r"tuner.masked_linear_list.\1.mlp_in.optimized_",
                "fc2": r"tuner.masked_linear_list.\1.mlp_out.optimized_",
            },
            {"kernel": "weight", "bias": "bias"},
        ),
        *LIFT_BLOCK,
        ("head/weight", "head.weight", "same"),
    ],
    "lift_plus": [
        *_plus("visual", "image_encoder"),
        *_plus("text", "text_encoder"),
        *_block(
            f"{_PLUS}.", "norm1_ attn_in_proj_ attn_out_proj_ norm2_ mlp_in_proj_ mlp_out_proj_"
        ),
        # the bottlenecks of a ResNet
        (rf"{BLOCK}/conv(\d)/kernel", rf"{_PLUS}_conv\2_weight", "conv"),
        (rf"{BLOCK}/bn(\d)/scale", rf"{_PLUS}_bn\2_weight", "same"),
        (rf"{BLOCK}/bn(\d)/bias", rf"{_PLUS}_bn\2_bias", "same"),
        (f"{BLOCK}/down/kernel", f"{_PLUS}_downsample_0_weight", "conv"),
        (f"{BLOCK}/down_bn/scale", f"{_PLUS}_downsample_1_weight", "same"),
        (f"{BLOCK}/down_bn/bias", f"{_PLUS}_downsample_1_bias", "same"),
        ("head/weight", "tuner.classifier.weight", "same"),
        # tuners of images and texts together, without a classifier
        *_plus("head/text", "text_encoder"),
        ("head/context", "tuner.text_encoder.ctx", "same"),
        ("head/image_proj", "tuner.image_proj", "same"),
        ("head/text_proj", "tuner.text_proj", "same"),
        *_bottleneck("head/image_adapter", "tuner.image_adapter", "norm down up"),
        *_bottleneck("head/text_adapter", "tuner.text_adapter", "norm down up"),
    ],
}  # fmt: skip
