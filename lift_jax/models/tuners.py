"""The tuners by name, how they get into a tower, and the one rule that says what is trained.

A tuner is a module that a block holds (or, behind the pooling, a ResNet); it changes what is
computed there through the hooks of `Tuner` (models/hooks.py). Every weight that a tuner adds is
`Tuned`. Methods that train existing weights (`RULES`) add nothing: they are a rule over paths in
`trainable`. A new tuner is a subclass of `Tuner` under a name in `TUNERS`.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from flax import nnx

from lift_jax.errors import UserError, unknown
from lift_jax.models import tree
from lift_jax.models.hooks import Options, Site, Tunable, Tuned, Tuner
from lift_jax.models.methods import (
    SSF,
    Adapter,
    AdaptFormer,
    Arbitrary,
    LoRA,
    LoRAMLP,
    Prompts,
    ShallowPrompts,
)

Path = tuple[str | int, ...]
Model = TypeVar("Model", bound=nnx.Module)

# Tuners of one block act in this order: low-rank changes come before scales, as with the authors.
TUNERS: dict[str, type[Tuner]] = {
    "aft": Arbitrary, "lora": LoRA, "lora_mlp": LoRAMLP, "ssf": SSF, "adapter": Adapter,
    "adaptformer": AdaptFormer, "vpt_shallow": ShallowPrompts, "vpt_deep": Prompts,
}  # fmt: skip

# Methods that train existing weights, by their paths.
RULES: dict[str, Callable[[Path], bool]] = {
    "bitfit": lambda path: path[-1] == "bias",
    "ln": lambda path: any(part in ("ln1", "ln2") for part in path),
    "bn": lambda path: any(re.fullmatch(r"(down_)?bn\d?|bns", str(part)) for part in path),
    "full": lambda path: True,
}
PATH_RULES = tuple(RULES)
FOR_RESNETS = ("ssf", "bitfit", "bn", "full")


class Tower(Protocol):
    """What tuners are put into: a stack of blocks (models/blocks.py), or a ResNet."""

    blocks: Any
    config: Any

    @property
    def width(self) -> int: ...


def parse_names(text: str, more: Sequence[str] = (), key: str = "tuner.name") -> tuple[str, ...]:
    """The tuners of "adaptformer", "one+another" or "none", the config's `key`.

    Raises UserError for unknown ones, which are not among `more` either, and for those that do not
    go together.
    """
    names = () if text == "none" else tuple(name.strip() for name in text.split("+"))
    for name in names:
        if name not in (*TUNERS, *RULES, *more):
            raise unknown(f"tuner ({key})", name, [*TUNERS, *RULES, *more, "none"])
    if len(set(names)) != len(names):
        raise UserError(f"{key} is {text!r}: each tuner can be given once.")
    if {"vpt_shallow", "vpt_deep"} <= set(names):
        raise UserError(
            f"{key} is {text!r}: vpt_deep replaces the prompts of vpt_shallow. Give one."
        )
    return names


def applies(name: str, tower: Tower) -> bool:
    """Whether there is something in a tower for a tuner to tune."""
    return name != "bn" if isinstance(tower.blocks[0], Tunable) else name in FOR_RESNETS


def layers(depth: int, partial: int = 0, named: str = "", group: str = "tuner") -> Sequence[int]:
    """The indices of the tuned blocks, counted from 0 (`partial` and `layers` of a config's group).

    `named` lists blocks and ranges without their end, "0,2" or "1:3"; without it they are all for
    partial = 0, else the last `partial`. Raises UserError for blocks that there are not.
    """
    if not named:
        if not 0 <= partial <= depth:
            raise UserError(
                f"{group}.partial is {partial}, but the backbone has {depth} blocks: give 0 for "
                f"all, or a number from 1 to {depth}."
            )
        return range(depth - partial if partial else 0, depth)
    chosen: set[int] = set()
    for part in named.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?::\s*(\d+)\s*)?", part)
        first, end = (int(match[1]), int(match[2] or int(match[1]) + 1)) if match else (0, 0)
        if not first < end <= depth:
            raise UserError(
                f"{group}.layers is {named!r}, but the backbone has blocks 0 to {depth - 1}: give "
                f"indices and ranges without their end, as in '0,2' or '{depth // 2}:{depth}'."
            )
        chosen.update(range(first, end))
    return sorted(chosen)


def attach(
    tower: Tower, names: Sequence[str], classes: int, *, rngs: nnx.Rngs, **options: Any
) -> None:
    """Puts new tuners into the chosen blocks of a tower, or behind the pooling of a ResNet.

    The options are the fields of `Options`. Automatic sizes come from `classes` and the number of
    tuned layers (LIFT+'s rule; LIFT takes the whole depth). Tuners act in the order of `TUNERS`.
    Raises UserError for options that are out of range.
    """
    asked = Options(**options)
    chosen = layers(len(tower.blocks), asked.partial, asked.layers, asked.group)
    added: dict[int, dict[str, Tuner]] = {}
    resnet = not isinstance(tower.blocks[0], Tunable)
    for name in TUNERS:
        if name not in names or not applies(name, tower):
            continue
        where = [0] if resnet else TUNERS[name].blocks(chosen)
        for index, i in enumerate(where):
            holder: Any = tower if resnet else tower.blocks[i]
            weights = {key: layer.weights() for key, layer in holder.layers().items()}
            site = Site(
                tower.width if resnet else weights["ln1"][0].size, weights, classes, len(where),
                getattr(tower.config, "patch", 0), asked, index,
            )  # fmt: skip
            added.setdefault(i, {})[name] = TUNERS[name](site, rngs=rngs)
    for i, tuners in added.items():
        holder = tower if resnet else tower.blocks[i]
        holder.hold(tuners)


def trainable(
    names: Sequence[str],
    depth: int,
    partial: int = 0,
    named: str = "",
    *,
    prefix: str = "visual",
    resnet: bool = False,
) -> Callable[[Path, nnx.Variable], bool]:
    """The predicate `(path, variable) -> bool` behind the split, the optax mask and all the rest.

    A leaf is trained if it is `Tuned` (all that tuners and the head add), or if one of the `RULES`
    among the names wants it and it belongs to one of the chosen blocks of the tower at the path
    `prefix`. Of a ResNet with all blocks chosen, stem and pooling belong to them.
    """
    rules = [RULES[name] for name in names if name in RULES]
    tower = tree.parts(prefix)
    chosen = layers(depth, partial, named)
    whole = resnet and len(chosen) == depth

    def is_trainable(path: Path, variable: nnx.Variable) -> bool:
        own = path[len(tower) :]
        inside = path[: len(tower)] == tower and (
            whole or (own[0] == "blocks" and own[1] in chosen)
        )
        weight = isinstance(variable, nnx.Param)  # and not a running statistic
        wanted = inside and weight and any(rule(path) for rule in rules)
        return isinstance(variable, Tuned) or wanted

    return is_trainable


def merge(model: Model) -> Model:
    """A copy of a tower, backbone or classifier with its tuners folded into the weights.

    It computes the same at the cost of the untuned one. Raises UserError, naming them, for tuners
    that are no linear change of weights: adapters and prompts.
    """
    merged = nnx.clone(model)
    holders = [module for _, module in nnx.iter_modules(merged) if isinstance(module, Tunable)]
    lasting = {name for h in holders for name in h.order if not h.tuners[name].merges}
    if lasting:
        raise UserError(
            f"{' and '.join(sorted(lasting))} cannot be merged into the weights of the backbone: "
            f"{', '.join(name for name in TUNERS if TUNERS[name].merges)} can."
        )
    for holder in holders:
        if holder.order and not holder.layers():
            raise UserError("A ResNet that pools by the mean has no layer that ssf merges into.")
        holder.merge()
    return merged
