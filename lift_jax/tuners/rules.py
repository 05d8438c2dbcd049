"""The rule that says which leaves are trained.

Two kinds of leaves are trained: those that tuners and heads add, which are `Tuned`, and weights
whose paths a method in `PATH_RULES` chooses (BitFit, LayerNorm tuning, full fine-tuning).
"""

import re
from collections.abc import Callable, Sequence

from flax import nnx

from lift_jax.errors import UserError
from lift_jax.models import tree
from lift_jax.models.tunable import Tuned

Path = tuple[str | int, ...]
# Methods that train existing weights: whether a path belongs to them.
PATH_RULES: dict[str, Callable[[Path], bool]] = {
    "bitfit": lambda path: path[-1] == "bias",
    "ln": lambda path: any(part in ("ln1", "ln2") for part in path),
    "bn": lambda path: any(re.fullmatch(r"(down_)?bn\d?|bns", str(part)) for part in path),
    "full": lambda path: True,
}
FOR_RESNETS = ("ssf", "bitfit", "bn", "full")  # tuners and methods that a ResNet can have


def chosen_blocks(
    depth: int, partial: int = 0, named: str = "", group: str = "tuner"
) -> Sequence[int]:
    """Returns the indices of the tuned blocks, counted from 0.

    Args:
        depth: number of blocks in the tower.
        partial: number of last blocks that are tuned (tuner.partial); 0 for all.
        named: blocks and ranges without their end, as in "0,2" or "1:3" (tuner.layers); it takes
            precedence over `partial`.
        group: group of these settings, for messages.

    Raises UserError if a block does not exist.
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
    stem: bool = True,
) -> Callable[[Path, nnx.Variable], bool]:
    """Returns the predicate `(path, variable) -> bool` that says whether a leaf is trained.

    A leaf is trained if it is `Tuned`, or if one of the `PATH_RULES` in `names` holds for its path
    and it belongs to a chosen block of the tower at the path `prefix`. If all blocks of a ResNet
    are chosen, its stem and pooling count as well; without `stem` (tuner.stem) for bn alone.
    `depth`, `partial` and `named` are those of `chosen_blocks`, which may raise UserError.
    """
    rules = [name for name in names if name in PATH_RULES]
    tower = tree.parts(prefix)
    chosen = chosen_blocks(depth, partial, named)
    whole = resnet and len(chosen) == depth

    def is_trainable(path: Path, variable: nnx.Variable) -> bool:
        if isinstance(variable, Tuned):
            return True
        own = path[len(tower) :]
        if path[: len(tower)] != tower or not isinstance(variable, nnx.Param):
            return False  # of another part, or a running statistic
        in_chosen_block = own[0] == "blocks" and own[1] in chosen
        return any(
            PATH_RULES[name](path) and (in_chosen_block or (whole and (stem or name == "bn")))
            for name in rules
        )

    return is_trainable
