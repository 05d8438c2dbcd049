"""What LIFT and LIFT+ call the leaves that they tune: one rename table for the names of each."""

from collections.abc import Mapping

from lift_jax.weights.rename import Table, linear, norm

BLOCK = r"visual/blocks/(\d+)"
_PLUS = r"tuner.image_encoder.blocks.\1"  # LIFT+'s blocks
_FUSED = (("q", "0/3"), ("k", "1/3"), ("v", "2/3"))  # one layer of theirs


def _bottleneck(ours: str, theirs: str, layers: str) -> Table:
    """A tuner of LayerNorm and two linear layers, whose `layers` they name so."""
    layer_norm, down, up = layers.split()
    return [
        *norm(f"{ours}/norm", f"{theirs}.{layer_norm}"),
        *linear(f"{ours}/down", f"{theirs}.{down}"),
        *linear(f"{ours}/up", f"{theirs}.{up}"),
    ]


def _lora(ours: str, theirs: str, leaves: str) -> Table:
    """One low-rank change, whose two matrices they name so."""
    down, up = leaves.split()
    return [
        (f"{ours}/down", f"{theirs}.{down}", "same"),
        (f"{ours}/up", f"{theirs}.{up}", "same"),
    ]


def _ssf(ours: str, layers: Mapping[str, str]) -> Table:
    """Scales and shifts behind our layers, or our three ("qkv"), by their names."""
    return [
        (f"{ours}/{name}/{leaf}", f"{theirs}.{leaf}", f"same{part and ':'}{part}")
        for layer, theirs in layers.items()
        for name, part in (_FUSED if layer == "qkv" else ((layer, ""),))
        for leaf in ("scale", "shift")
    ]


def _block(theirs: str, layers: str) -> Table:
    """All weights of a block, whose `layers` they name so, up to "weight" and "bias"."""
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
    """LIFT+'s tuners in the blocks of a tower."""
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
    """The tuned entries of our layers by their names, and their leaves of each by ours."""
    return [
        (f"{ours}/{layer}/{leaf}", f"{theirs}{kind}", "same")
        for layer, theirs in layers.items()
        for leaf, kind in kinds.items()
    ]


# LIFT's names of the weights of CLIP's blocks (blocks of timm have others) when all are tuned ...
LIFT_BLOCK = _block(
    r"tuner.block_tuned.\1.", "ln_1. attn.in_proj_ attn.out_proj. ln_2. mlp.c_fc. mlp.c_proj."
)
# ... when the biases alone are, counted through all blocks in the order that CLIP's have ...
LIFT_BIAS: Table = [
    (f"visual/blocks/{block}/{layer}/bias", f"tuner.bias_tuned.{6 * block + i}", layout)
    for block in range(64)
    for i, layers in enumerate(("qkv", "out", "ln1", "fc1", "fc2", "ln2"))
    for layer, layout in (
        [(name, f"same:{part}") for name, part in _FUSED] if layers == "qkv" else [(layers, "same")]
    )
]
# ... and when the LayerNorms alone are, counted likewise
LIFT_LN: Table = [
    rule
    for block in range(64)
    for i in range(2)
    for rule in norm(f"visual/blocks/{block}/ln{i + 1}", f"tuner.ln_tuned.{2 * block + i}")
]
# another tuner is a few rows in each
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
        # without a classifier
        *_plus("head/text", "text_encoder"),
        ("head/context", "tuner.text_encoder.ctx", "same"),
        ("head/image_proj", "tuner.image_proj", "same"),
        ("head/text_proj", "tuner.text_proj", "same"),
        *_bottleneck("head/image_adapter", "tuner.image_adapter", "norm down up"),
        *_bottleneck("head/text_adapter", "tuner.text_adapter", "norm down up"),
    ],
}  # fmt: skip
