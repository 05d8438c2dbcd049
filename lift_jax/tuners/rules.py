"""The tuners by name, how they get into a tower, and the one rule that says what is trained.

A tuner is a module that a block holds (or, behind the pooling, a ResNet); it changes what is
computed there through the hooks of `Tuner` (models/hooks.py). Every weight that a tuner adds is
`Tuned`. Methods that train existing weights (`RULES`) add nothing: they are a rule over paths in
`trainable`. A new tuner is a subclass of `Tuner` under a name in `TUNERS`.
"""

import re
from collections.abc import Callable, Sequence

from flax import nnx

from lift_jax.errors import UserError
from lift_jax.models import tree
from lift_jax.models.tunable import Tuned

Path = tuple[str | int, ...]
# Methods that train existing weights, by their paths.
RULES: dict[str, Callable[[Path], bool]] = {
    "bitfit": lambda path: path[-1] == "bias",
    "ln": lambda path: any(part in ("ln1", "ln2") for part in path),
    "bn": lambda path: any(re.fullmatch(r"(down_)?bn\d?|bns", str(part)) for part in path),
    "full": lambda path: True,
}
PATH_RULES = tuple(RULES)
FOR_RESNETS = ("ssf", "bitfit", "bn", "full")


def chosen_blocks(
    depth: int, partial: int = 0, named: str = "", group: str = "tuner"
) -> Sequence[int]:
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
    chosen = chosen_blocks(depth, partial, named)
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
