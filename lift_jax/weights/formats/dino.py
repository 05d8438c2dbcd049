"""DINOv2's and DINOv3's format: the files of their own code, a state dict without a config.

Both name a ViT as timm does, with a mask token, layer scale and registers. DINOv3 has no position
embeddings but the periods of its rotary positions, which give the number of heads and the base. Its
mask of the biases of queries, keys and values says that keys have none.
"""

import re
from typing import Any

import numpy as np

from lift_jax.errors import UserError
from lift_jax.models.backbone import BackboneConfig
from lift_jax.models.vit.config import VisionConfig
from lift_jax.weights.files.source import Source
from lift_jax.weights.formats import bare, families
from lift_jax.weights.rename import Table, linear, norm

SIZES = ("heads", "eps", "activation")
# `norm` counts as left out where CLS has a LayerNorm of its own
IGNORED = (
    r"head\..*", "mask_token", r"rope_embed\.periods", r".*\.qkv\.bias_mask",
    r"local_cls_norm\..*", r"norm\..*",
)  # fmt: skip

PERIODS = "rope_embed.periods"
HEAD = 64  # the width of a head in all of DINOv2
PIXELS = 224  # of DINOv3's images, which nothing in its files states
BASE = 100.0  # of rotary positions in all of DINOv3
ROUNDED = 0.005  # relative error of periods in bfloat16


def recognises(source: Source) -> bool:
    """Returns True for the names of DINOv2's and DINOv3's own files."""
    names = source.tensors.keys()
    scaled = any(name.endswith(".ls1.gamma") for name in names)
    own = "mask_token" in names or "register_tokens" in names or _is_chunked(source)
    return PERIODS in names or ("patch_embed.proj.weight" in names and scaled and own)


def _is_chunked(source: Source) -> bool:
    return any(re.match(r"blocks\.\d+\.\d+\.", name) for name in source.tensors)


def _blocks(source: Source) -> list[str]:
    """Returns the beginnings of the blocks' names; in blocks.2.7. the second number counts."""
    found = {}
    for name in source.tensors:
        if match := re.match(r"blocks\.(?:\d{1,6}\.)?(\d{1,6})\.(?!\d)", name):
            found[int(match[1])] = match[0]
    return [found.get(i, f"blocks.{i}.") for i in range(max(found, default=-1) + 1)]


def resize(source: Source) -> str:
    """Returns the interpolation of position embeddings, with antialiasing for registers alone."""
    return "antialias" if "register_tokens" in source.tensors else "offset"


def table(source: Source) -> Table:
    """Returns the rename table for the kind of MLP and the names of this source."""
    tensors = source.tensors
    stem, last = "patch_embed.proj", "cls_norm" if "cls_norm.weight" in tensors else "norm"
    rules: Table = [
        ("visual/stem/linear/kernel", f"{stem}.weight", "stem"),
        ("visual/stem/linear/bias", f"{stem}.bias", "same"),
        ("visual/cls", "cls_token", "lead2"),
        ("visual/registers", _registers(source), "lead1"),
        ("visual/positions", "pos_embed", "lead1"),
        *norm("visual/ln_post", last),
    ]
    for i, theirs in enumerate(_blocks(source)):
        ours = f"visual/blocks/{i}"
        rules += norm(rf"{ours}/ln(\d)", rf"{theirs}norm\1")
        rules += linear(f"{ours}/out", f"{theirs}attn.proj")
        rules.append((rf"{ours}/scale(\d)", rf"{theirs}ls\1.gamma", "same"))
        for part, layer in enumerate("qkv"):
            rules.append((f"{ours}/{layer}/kernel", f"{theirs}attn.qkv.weight", f"linear:{part}/3"))
            rules.append((f"{ours}/{layer}/bias", f"{theirs}attn.qkv.bias", f"same:{part}/3"))
        for layer, name in _mlp(source).items():
            name, colon, half = name.partition(":")
            rules += [
                (f"{ours}/{layer}/kernel", f"{theirs}mlp.{name}.weight", f"linear{colon}{half}"),
                (f"{ours}/{layer}/bias", f"{theirs}mlp.{name}.bias", f"same{colon}{half}"),
            ]
    return rules


def _registers(source: Source) -> str:
    return "storage_tokens" if PERIODS in source.tensors else "register_tokens"


def _mlp(source: Source) -> dict[str, str]:
    """Returns their names of an MLP's layers; ":i/n" is the i-th of n parts."""
    first = (_blocks(source) or [""])[0]
    if f"{first}mlp.w12.weight" in source.tensors:
        return {"gate": "w12:0/2", "fc1": "w12:1/2", "fc2": "w3"}
    if f"{first}mlp.w1.weight" in source.tensors:
        return {"gate": "w1", "fc1": "w2", "fc2": "w3"}
    return {"fc1": "fc1", "fc2": "fc2"}


def read_config(source: Source, **sizes: Any) -> BackboneConfig:
    """Reads the sizes from names, shapes and the periods of rotary positions.

    `heads`, `eps` and `activation` are taken from `sizes`. By default heads are 64 wide in DINOv2,
    and eps is 1e-6 there and 1e-5 in DINOv3. Raises UserError for sizes that do not fit.
    """
    v3 = PERIODS in source.tensors
    kind = f"ViT of DINOv{3 if v3 else 2}'s own code"
    width, _, patch, _ = bare.shape(source, kind, "patch_embed.proj.weight", 4)
    mlp = _mlp(source)
    first = (_blocks(source) or ["blocks.0."])[0]
    hidden = bare.shape(source, kind, f"{first}mlp.{mlp['fc2']}.weight", 2)[1]
    heads, base, resolution = (None, 0.0, 0)
    if v3:
        heads, base = _rotary(source, width)
        resolution = max(1, PIXELS // patch) * patch
    else:
        heads = width // HEAD if width % HEAD == 0 else None
        _, tokens, _ = bare.shape(source, kind, "pos_embed", 3)
        resolution = round(max(0, tokens - 1) ** 0.5) * patch
    registers, normal = source.tensors.get(_registers(source)), families.statistics(source)
    vision = VisionConfig(
        resolution, patch, width, len(_blocks(source)),
        heads=bare.known_heads(source, width, sizes.get("heads", heads)),
        mlp=hidden,
        activation=bare.checked_activation(
            sizes.get("activation", "silu" if "gate" in mlp else "gelu")
        ),
        eps=bare.checked_eps(sizes.get("eps", 1e-5 if v3 else 1e-6)),
        mean=normal["mean"], std=normal["std"],
        stem_bias=True, ln_pre=False, rope=base, layer_scale=f"{first}ls1.gamma" in source.tensors,
        registers=registers.shape[1] if registers is not None and registers.ndim == 3 else 0,
        gated="gate" in mlp, unbiased=_unbiased(source, first, mlp),
    )  # fmt: skip
    return BackboneConfig(vision)


def _rotary(source: Source, width: int) -> tuple[int, float]:
    """Returns (heads, base) by the periods of rotary positions, base^(i/n) for i in 0..n-1.

    Raises UserError for other periods.
    """
    periods = np.asarray(source.tensors[PERIODS], np.float64).reshape(-1)
    n = len(periods)
    fault = f"{source.where} holds {PERIODS} of {n} numbers; expected base^(i/n) for i in 0..n-1"
    if not n or width % (4 * n) or not (np.isfinite(periods) & (periods > 0)).all():
        raise UserError(f"{fault}, with 4n the width of a head. Get the file again.")
    base = BASE
    for candidate in (BASE, float(periods[-1] ** (n / max(1, n - 1)))):
        base = round(candidate, 3)
        if np.allclose(periods, base ** (np.arange(n) / n), rtol=ROUNDED, atol=0):
            return width // (4 * n), base
    raise UserError(
        f"{fault}, as in DINOv3; found {periods[0]:g} to {periods[-1]:g}, as of a smallest and a "
        "largest period, which are not supported. Give a published DINOv3."
    )


def _unbiased(source: Source, first: str, mlp: dict[str, str]) -> tuple[str, ...]:
    """Returns the names of the layers without bias, by the first block.

    Raises UserError for a mask of biases that is not 1 for queries and values, and 0 for keys.
    """
    tensors = source.tensors
    none = [] if f"{first}attn.qkv.bias" in tensors else ["q", "k", "v"]
    masks = [name for name in tensors if name.endswith(".qkv.bias_mask")]
    for name in masks:
        mask = np.asarray(tensors[name], np.float32)
        third = len(mask) // 3 if mask.ndim == 1 else 0
        expected = np.repeat(np.asarray([1, 0, 1], np.float32), third)
        if mask.shape != expected.shape or not np.array_equal(mask, expected):
            raise UserError(
                f"{source.where}: {name} is not 1 for queries and values, and 0 for keys, as in "
                "DINOv3's files. Get the file again."
            )
    if masks and not none:
        none = ["k"]
    names = {"out": "attn.proj"} | {k: f"mlp.{v.partition(':')[0]}" for k, v in mlp.items()}
    return (*none, *(k for k, name in names.items() if f"{first}{name}.bias" not in tensors))
