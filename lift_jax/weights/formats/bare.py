"""State dicts without a config: their sizes by names, shapes and metadata; the names of ResNets."""

import re
from collections.abc import Mapping
from typing import Any

from lift_jax.errors import UserError, shown, unknown
from lift_jax.models.blocks.layers import ACTIVATIONS
from lift_jax.weights.files.source import Source
from lift_jax.weights.formats import huggingface
from lift_jax.weights.rename import Table, norm

STAGES = (1, 2, 3, 4)
# a BatchNorm's count of the batches in its statistics
COUNTS = r"(.*\.)?num_batches_tracked"

# where metadata may state a size, the surest place first; a dot leads into an object
_STATED = {
    "heads": (
        "heads", "vision_heads", "vision_config.num_attention_heads", "vision_cfg.heads",
        "num_attention_heads", "num_heads",
    ),
    "text_heads": (
        "text_heads", "transformer_heads", "text_config.num_attention_heads", "text_cfg.heads",
    ),
    "eps": ("eps", "layer_norm_eps", "vision_config.layer_norm_eps"),
    "activation": ("activation", "hidden_act", "vision_config.hidden_act", "quick_gelu"),
}  # fmt: skip


def stated(
    source: Source, widths: Mapping[str, int], given: Mapping[str, Any]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Returns (sizes that the metadata states and the caller did not give, notes on them).

    `widths` has what the numbers of heads must divide. A value that cannot be right is not used.
    """
    outer = source.metadata
    inner = outer.get("model_cfg")
    places = [outer, inner] if isinstance(inner, dict) else [outer]
    sizes, wrong = {}, []
    for size, keys in _STATED.items():
        if size in given:
            continue
        found = ((key, _at(place, key)) for place in places for key in keys)
        key, value = next(((k, v) for k, v in found if v is not None), ("", None))
        if key == "quick_gelu":
            value = "quick_gelu" if value is True else "gelu" if value is False else value
        elif size == "activation" and isinstance(value, str):
            value = huggingface.ACTIVATIONS.get(value, value)
        if key and _plausible(size, value, widths):
            sizes[size] = value
        elif key and (size in widths or "heads" not in size):
            wrong.append(f"{key} {shown(value)}")
    notes = [f"{key} {value}" for key, value in sizes.items()]
    return sizes, (
        *((f"By the metadata of {source.where}: {', '.join(notes)}.",) if sizes else ()),
        *(
            f"The metadata of {source.where} state {each}, which does not fit its weights and is "
            "not taken."
            for each in wrong
        ),
    )


def _plausible(size: str, value: Any, widths: Mapping[str, int]) -> bool:
    """Returns True if a size may have this value."""
    if size == "activation":
        return isinstance(value, str) and value in ACTIVATIONS
    if size == "eps":
        return type(value) is float and 0 < value < 0.1
    width = widths.get(size, 0)
    return type(value) is int and width > 0 and 0 < value <= width // 4 and width % value == 0


def _at(place: dict[str, Any], key: str) -> Any:
    """Returns the value at a dotted key, None without one."""
    outer, _, inner = key.rpartition(".")
    part = place.get(outer) if outer else place
    return part.get(inner) if isinstance(part, dict) else None


def shape(source: Source, kind: str, name: str, axes: int) -> tuple[int, ...]:
    """Returns the shape of a tensor of a source that should be a `kind`.

    Raises UserError if the tensor is absent or has another number of axes.
    """
    tensor = source.tensors.get(name)
    if tensor is None or tensor.ndim != axes:
        stored = "none" if tensor is None else tensor.shape
        raise UserError(
            f"{source.where} is not a {kind}: expected {name} with {axes} axes, found {stored}. "
            "Check that the file is whole and of a supported kind."
        )
    return tensor.shape


def depth(source: Source, prefix: str) -> int:
    """Returns the number of blocks, named PREFIX0., PREFIX1., ...: one more than the largest."""
    pattern = re.compile(rf"{re.escape(prefix)}(\d{{1,6}})\.")
    return max((int(m[1]) + 1 for name in source.tensors if (m := pattern.match(name))), default=0)


def known_heads(source: Source, width: int, heads: Any, name: str = "") -> int:
    """Returns the number of heads of a ViT. Raises UserError if it is None, or does not fit.

    `name` is that of the model, "" if nothing states it.
    """
    if heads is None:
        raise UserError(
            f"{source.where} does not say the number of heads of its ViT of width {width}"
            + (f", and neither does its name {shown(name)}" if name else "")
            + ". Give heads= to load_backbone, or --heads= to lift-jax convert."
        )
    return checked_heads(source, width, "heads", heads)


def checked_heads(source: Source, width: int, key: str, heads: Any) -> int:
    """Returns the number of heads. Raises UserError unless the width is a multiple of it."""
    if type(heads) is not int or heads < 1 or width % heads:
        raise UserError(
            f"{source.where}: width {width} is not a multiple of {key}={shown(heads)}. Give "
            f"another {key}."
        )
    return heads


def checked_eps(eps: Any) -> float:
    """Returns a LayerNorm's epsilon. Raises UserError for anything but a number above 0."""
    if not isinstance(eps, int | float) or not 0 < eps <= 1:
        raise UserError(f"eps is {shown(eps)}; expected a number above 0, like 1e-6.")
    return float(eps)


def checked_activation(name: Any) -> str:
    """Returns the name of an activation. Raises UserError for an unknown name."""
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise unknown("activation", str(name), ACTIVATIONS)
    return name


def stages(source: Source, kind: str, prefix: str = "") -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns (inner channels, number of bottlenecks) of each of a ResNet's stages.

    Raises UserError if a stage has no bottleneck.
    """
    names = [f"{prefix}layer{stage}." for stage in STAGES]
    channels = tuple(shape(source, kind, f"{name}0.conv1.weight", 4)[0] for name in names)
    return channels, tuple(depth(source, name) for name in names)


def batch_norm(ours: str, theirs: str) -> Table:
    """Returns the rules of a BatchNorm."""
    return [
        *norm(ours, theirs),
        (f"{ours}/mean", f"{theirs}.running_mean", "same"),
        (f"{ours}/var", f"{theirs}.running_var", "same"),
    ]


def bottlenecks(source: Source, prefix: str = "") -> Table:
    """Returns the rules of a ResNet's bottlenecks, which we number through all stages."""
    names = [
        f"{prefix}layer{stage}.{i}"
        for stage in STAGES
        for i in range(depth(source, f"{prefix}layer{stage}."))
    ]
    rules: Table = []
    for block, theirs in enumerate(names):
        ours = f"visual/blocks/{block}"
        rules.append((rf"{ours}/(conv\d)/kernel", rf"{theirs}.\1.weight", "conv"))
        rules += batch_norm(rf"{ours}/(bn\d)", rf"{theirs}.\1")
        if theirs.endswith(".0"):
            rules.append((f"{ours}/down/kernel", f"{theirs}.downsample.0.weight", "conv"))
            rules += batch_norm(f"{ours}/down_bn", f"{theirs}.downsample.1")
    return rules
