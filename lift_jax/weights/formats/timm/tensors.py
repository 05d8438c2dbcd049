"""timm's names of tensors: its ViTs, also EVA-02, DINOv3 and PE-Core, and its ResNets."""

from lift_jax.weights.files.source import Source
from lift_jax.weights.formats import bare
from lift_jax.weights.formats.timm.names import (
    PAIRED_NAMES,
    architecture,
    arguments_of,
    heads_of,
    named,
)
from lift_jax.weights.rename import Table, linear, norm, parts

# Classifiers, and what pre-training by masks needs.
IGNORED = (
    r"head(_dist)?\..*", r"fc\..*", r"pre_logits\..*", "mask_token", "masked_embed", r"decoder_.*",
    bare.COUNTS,
)  # fmt: skip
_BLOCK, _POOL = r"visual/blocks/(\d+)", "visual/pool"
_VIT: Table = [
    *linear("visual/stem/linear", "patch_embed.proj")[1:],
    ("visual/stem/linear/kernel", "patch_embed.proj.weight", "stem"),
    ("visual/cls", "cls_token", "lead2"),
    ("visual/positions", "pos_embed", "lead1"),
    *norm("visual/ln_pre", "norm_pre"),
    *norm(rf"{_BLOCK}/ln(\d)", r"blocks.\1.norm\2"),
    *norm(f"{_BLOCK}/ln_out", r"blocks.\1.attn.norm"),
    *linear(f"{_BLOCK}/out", r"blocks.\1.attn.proj"),
    *norm(f"{_BLOCK}/ln_fc2", r"blocks.\1.mlp.norm"),
    *linear(f"{_BLOCK}/fc2", r"blocks.\1.mlp.fc2"),
    (f"{_POOL}/probe", "attn_pool.latent", "lead2"),
    *linear(f"{_POOL}/q", "attn_pool.q"),
    *parts(f"{_POOL}/k", "attn_pool.kv", 0, 2),
    *parts(f"{_POOL}/v", "attn_pool.kv", 1, 2),
    *linear(f"{_POOL}/out", "attn_pool.proj"),
    *norm(f"{_POOL}/ln", "attn_pool.norm"),
    *linear(f"{_POOL}/fc1", "attn_pool.mlp.fc1"),
    *linear(f"{_POOL}/fc2", "attn_pool.mlp.fc2"),
]
_RESNET: Table = [
    ("visual/stem/convs/0/kernel", "conv1.weight", "conv"),
    *bare.batch_norm("visual/stem/bns/0", "bn1"),
]


def is_vit(source: Source) -> bool:
    """Returns True for the names of a ViT's tensors."""
    return any(name.startswith(("patch_embed.", "blocks.")) for name in source.tensors)


def is_resnet(source: Source) -> bool:
    """Returns True for the names of a ResNet's tensors."""
    return any(name.startswith("layer1.") for name in source.tensors)


def table(source: Source) -> Table:
    """Returns the rename table of this ViT, or of this ResNet."""
    if is_resnet(source):
        return [*_RESNET, *bare.bottlenecks(source)]
    scale = r"ls\2.gamma"
    if "blocks.0.gamma_1" in source.tensors:  # EVA's, DINOv3's and DeiT III's own names
        scale = r"gamma_\2"
    return [
        *_VIT,
        *_attention(source),
        *_mlp(source),
        (rf"{_BLOCK}/scale(\d)", rf"blocks.\1.{scale}", "same"),
        *norm("visual/ln_post", "fc_norm" if "fc_norm.weight" in source.tensors else "norm"),
        ("visual/registers", registers_name(source), "lead1"),
    ]


def _attention(source: Source) -> Table:
    """Returns the rules of queries, keys and values, in one matrix or three."""
    rules: Table = []
    attn, one = r"blocks.\1.attn", "blocks.0.attn.q_proj.weight" not in source.tensors
    pairs = f"~{head_width(source)}" if named(source, PAIRED_NAMES) else ""
    for i, a in enumerate("qkv"):
        how = pairs if a != "v" else ""
        if one:
            kernel, bias = parts(f"{_BLOCK}/{a}", f"{attn}.qkv", i, 3, how)
            if "blocks.0.attn.q_bias" in source.tensors:  # keys have none
                bias = (bias[0], f"{attn}.{a}_bias", f"same{how}")
            rules += [kernel, bias]
        else:
            name = f"{attn}.{a}_proj"
            rules.append((f"{_BLOCK}/{a}/kernel", f"{name}.weight", f"linear{how}"))
            rules.append((f"{_BLOCK}/{a}/bias", f"{name}.bias", f"same{how}"))
    return rules


def head_width(source: Source) -> int:
    """Returns the width of a head of an EVA-02 or PE-Core, by its name or its config."""
    width = bare.shape(source, "ViT of timm", "patch_embed.proj.weight", 4)[0]
    heads = arguments_of(source).get("num_heads", heads_of(source, width))
    return width // bare.known_heads(source, width, heads, architecture(source))


def _mlp(source: Source) -> Table:
    """Returns the rules of an MLP's first layer, which is one, or two with a gate."""
    fc1 = r"blocks.\1.mlp.fc1"
    if "blocks.0.mlp.fc1_g.weight" in source.tensors:
        return [*linear(f"{_BLOCK}/gate", f"{fc1}_g"), *linear(f"{_BLOCK}/fc1", f"{fc1}_x")]
    if is_gated(source):
        return [*parts(f"{_BLOCK}/gate", fc1, 0, 2), *parts(f"{_BLOCK}/fc1", fc1, 1, 2)]
    return linear(f"{_BLOCK}/fc1", fc1)


def registers_name(source: Source) -> str:
    """Returns the name of the tokens behind the class token: registers, or that of a teacher."""
    return "dist_token" if "dist_token" in source.tensors else "reg_token"


def is_gated(source: Source) -> bool:
    """Returns True if an MLP has two hidden layers (SwiGLU), in one matrix or in two."""
    if "blocks.0.mlp.fc1_g.weight" in source.tensors:
        return True
    shapes = [
        tensor.shape
        for name in ("fc1", "fc2")
        if (tensor := source.tensors.get(f"blocks.0.mlp.{name}.weight")) is not None
    ]
    return (
        len(shapes) == 2
        and len(shapes[0]) == len(shapes[1]) == 2
        and (shapes[0][0] == 2 * shapes[1][1])
    )
