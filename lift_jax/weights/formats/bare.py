"""State dicts without a config: their sizes by names and shapes, and the names of ResNets."""

import re
from typing import Any

from lift_jax.errors import UserError, shown, unknown
from lift_jax.models.layers import ACTIVATIONS
from lift_jax.weights.files.source import Source
from lift_jax.weights.rename import Table, norm

STAGES = (1, 2, 3, 4)
# a BatchNorm's count of the batches in its statistics
COUNTS = r"(.*\.)?num_batches_tracked"


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
