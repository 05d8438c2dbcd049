"""The tuners by name, how they get into a tower, and the one rule that says what is trained.

A tuner is a module that a block holds (or, behind the pooling, a ResNet); it changes what is
computed there through the hooks of `Tuner` (models/hooks.py). Every weight that a tuner adds is
`Tuned`. Methods that train existing weights (`RULES`) add nothing: they are a rule over paths in
`trainable`. A new tuner is a subclass of `Tuner` under a name in `TUNERS`.
"""

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from flax import nnx

from lift_jax.errors import UserError, unknown
from lift_jax.models.tunable import Site, Tunable, Tuner
from lift_jax.settings.schema import TunerSettings
from lift_jax.tuners.adapter import Adapter, AdaptFormer
from lift_jax.tuners.lora import LoRA, LoRAMLP
from lift_jax.tuners.prompts import Prompts, ShallowPrompts
from lift_jax.tuners.random_mask import RandomMask
from lift_jax.tuners.rules import FOR_RESNETS, RULES, chosen_blocks
from lift_jax.tuners.ssf import SSF

Model = TypeVar("Model", bound=nnx.Module)
DEFAULTS = TunerSettings()
# Tuners of one block act in this order: low-rank changes come before scales, as with the authors.
TUNERS: dict[str, type[Tuner]] = {
    "aft": RandomMask, "lora": LoRA, "lora_mlp": LoRAMLP, "ssf": SSF, "adapter": Adapter,
    "adaptformer": AdaptFormer, "vpt_shallow": ShallowPrompts, "vpt_deep": Prompts,
}  # fmt: skip


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


def attach(
    tower: Tower,
    names: Sequence[str],
    classes: int,
    settings: TunerSettings = DEFAULTS,
    *,
    rngs: nnx.Rngs,
) -> None:
    """Puts new tuners into the chosen blocks of a tower, or behind the pooling of a ResNet.

    Automatic sizes come from `classes` and the number of tuned layers (LIFT+'s rule; LIFT takes
    the whole depth). Tuners act in the order of `TUNERS`. Raises UserError for blocks that do not
    exist, and for settings that a tuner cannot take.
    """
    asked = settings
    chosen = chosen_blocks(len(tower.blocks), asked.partial, asked.layers, asked.group)
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
