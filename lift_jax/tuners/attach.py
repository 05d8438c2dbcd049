"""The tuners by name, and how they are attached to a tower or merged into its weights.

A block, or a ResNet, holds its tuners (`models.tunable.Tunable`). The methods in
`rules.PATH_RULES` train existing weights, so nothing is attached for them.
"""

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from flax import nnx

from lift_jax.errors import UserError, unknown
from lift_jax.models.tunable import Site, Tunable, Tuner
from lift_jax.settings.groups.tuner import TunerSettings, split_names
from lift_jax.tuners.adapter import Adapter, AdaptFormer
from lift_jax.tuners.lora import LoRA, LoRAMLP
from lift_jax.tuners.prompts import Prompts, ShallowPrompts
from lift_jax.tuners.random_mask import RandomMask
from lift_jax.tuners.rules import FOR_RESNETS, PATH_RULES, chosen_blocks
from lift_jax.tuners.ssf import SSF

Model = TypeVar("Model", bound=nnx.Module)
DEFAULTS = TunerSettings()
# The tuners of a block act in this order. As in the authors' code, low-rank changes precede scales.
TUNERS: dict[str, type[Tuner]] = {
    "aft": RandomMask, "lora": LoRA, "lora_mlp": LoRAMLP, "ssf": SSF, "adapter": Adapter,
    "adaptformer": AdaptFormer, "vpt_shallow": ShallowPrompts, "vpt_deep": Prompts,
}  # fmt: skip


class Tower(Protocol):
    """A tower that tuners can be attached to: a ViT, a text tower or a ResNet."""

    blocks: Any
    config: Any

    @property
    def width(self) -> int: ...


def parse_names(text: str, more: Sequence[str] = (), key: str = "tuner.name") -> tuple[str, ...]:
    """Returns the names in "adaptformer" or "one+another", and () for "none".

    `more` are names that are allowed besides tuners and `PATH_RULES`; `key` is the setting, for
    messages. Raises UserError for unknown or repeated names, and for two kinds of prompts.
    """
    names = split_names(text)
    for name in names:
        if name not in (*TUNERS, *PATH_RULES, *more):
            raise unknown(f"tuner ({key})", name, [*TUNERS, *PATH_RULES, *more, "none"])
    if len(set(names)) != len(names):
        raise UserError(f"{key} is {text!r}: each tuner can be given once.")
    if {"vpt_shallow", "vpt_deep"} <= set(names):
        raise UserError(
            f"{key} is {text!r}: vpt_deep replaces the prompts of vpt_shallow. Give one."
        )
    return names


def is_resnet(tower: Tower) -> bool:
    """Returns True if a tower's blocks hold no tuners, so that the tower itself does."""
    return not isinstance(tower.blocks[0], Tunable)


def applies(name: str, tower: Tower) -> bool:
    """Returns True if a tower has something that this tuner can change."""
    return name in FOR_RESNETS if is_resnet(tower) else name != "bn"


def attach(
    tower: Tower,
    names: Sequence[str],
    classes: int,
    settings: TunerSettings = DEFAULTS,
    *,
    rngs: nnx.Rngs,
) -> None:
    """Attaches new tuners to the chosen blocks of a tower, or to the feature of a ResNet.

    Names that are not in `TUNERS` or do not apply to the tower are ignored. Automatic sizes follow
    from `classes` and the number of tuned blocks (LIFT+'s rule; LIFT takes the whole depth). The
    tuners act in the order of `TUNERS`. Raises UserError for blocks that do not exist, and for
    settings that a tuner cannot take.
    """
    chosen = chosen_blocks(len(tower.blocks), settings.partial, settings.layers, settings.group)
    resnet = is_resnet(tower)
    holders: Any = [tower] if resnet else tower.blocks
    added: dict[int, dict[str, Tuner]] = {}
    for name, kind in TUNERS.items():
        if name not in names or not applies(name, tower):
            continue
        blocks = [0] if resnet else kind.blocks(chosen)
        for index, block in enumerate(blocks):
            layers = holders[block].layers()
            weights = {key: layer.weights() for key, layer in layers.items()}
            site = Site(
                width=tower.width if resnet else weights["ln1"][0].size, weights=weights,
                classes=classes, tuned_blocks=len(blocks),
                patch=getattr(tower.config, "patch", 0), settings=settings, index=index,
            )  # fmt: skip
            added.setdefault(block, {})[name] = kind(site, rngs=rngs)
    for block, tuners in added.items():
        holders[block].hold(tuners)


def merge(model: Model) -> Model:
    """Returns a copy of a tower, backbone or classifier with its tuners folded into the weights.

    The copy computes the same at the cost of the untuned model. Raises UserError for tuners that
    are no linear change of weights (adapters and prompts), and for SSF in a plain ResNet.
    """
    merged = nnx.clone(model)
    holders = [module for _, module in nnx.iter_modules(merged) if isinstance(module, Tunable)]
    lasting = {name for h in holders for name in h.order if not h.tuners[name].merges}
    if lasting:
        raise UserError(
            f"{' and '.join(sorted(lasting))} cannot be merged into the weights of the backbone: "
            f"{', '.join([*(n for n in TUNERS if TUNERS[n].merges), *PATH_RULES])} can."
        )
    for holder in holders:
        if holder.order and not holder.layers():
            raise UserError("A ResNet that pools by the mean has no layer that ssf merges into.")
        holder.merge()
    return merged
