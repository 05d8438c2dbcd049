"""Parameter-efficient tuners, and the one rule that says which leaves are trained.

A tuner is a module that a block holds; it changes the block's output through the hooks of `Tuner`.
Every weight that a tuner adds is `Tuned`. Methods that train existing weights (`full`) add nothing:
they are a rule over paths in `trainable`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from lift_jax.errors import UserError, unknown
from lift_jax.models.layers import LayerNorm, Linear

Path = tuple[str | int, ...]


class Tower(Protocol):
    """What tuners are put into: a stack of blocks of one width (models/blocks.py)."""

    blocks: Any

    @property
    def width(self) -> int: ...


class Tuned(nnx.Param):
    """A trained leaf: kept in float32, given a gradient, optimised and saved."""


class Tuner(nnx.Module):
    """What a block asks of a tuner; each hook leaves its input unchanged by default.

    Subclasses take the tower's `width`, the width `dim` of their bottleneck and the initialiser of
    its kernels, and say with `auto_dim(classes, layers)` how large `dim` is by default.
    """

    def __init__(self, width: int, dim: int, init: Callable, *, rngs: nnx.Rngs):
        super().__init__()

    @staticmethod
    def auto_dim(classes: int, layers: int) -> int:
        """The size that gives the tuned layers together about as many weights as the head."""
        return 2 ** max(0, math.floor(math.log2(classes / (2 * layers))))

    def linear(self, name: str, y: Float[Array, "b n i"], out: Float[Array, "b n o"]) -> Array:
        """Changes the output of the layer `name` (q, k, v, out, fc1, fc2) whose input was y."""
        return out

    def mlp(self, x: Float[Array, "b n d"], m: Float[Array, "b n d"]) -> Array:
        """Changes m, what the MLP adds to the residual stream x (before LN2)."""
        return m


def kaiming_uniform(key: Array, shape: tuple[int, int], dtype=jnp.float32) -> Array:
    """torch's kaiming uniform with a = sqrt(5) for a kernel [inputs, outputs]: LIFT+'s start."""
    bound = shape[0] ** -0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def kaiming_normal(key: Array, shape: tuple[int, int], dtype=jnp.float32) -> Array:
    """torch's kaiming normal with a = sqrt(5), standard deviation 1/sqrt(3 inputs): LIFT's."""
    return jax.random.normal(key, shape, dtype) * (3 * shape[0]) ** -0.5


INITS = {"kaiming_uniform": kaiming_uniform, "kaiming_normal": kaiming_normal}


class AdaptFormer(Tuner):
    """A bottleneck beside the MLP: x += s * Up(relu(Down(LN(x)))), x before LN2 (LIFT section 4).

    Up starts at zero, so that the tuned model starts as the frozen one. Parameters: 2 width for
    the LayerNorm, (width + 1) dim + (dim + 1) width for the bottleneck, 1 for s.
    """

    def __init__(self, width: int, dim: int, init: Callable, *, rngs: nnx.Rngs):
        zeros = nnx.initializers.zeros
        # eps is 1e-5 even where the backbone's own LayerNorms have 1e-6, as in the authors' code
        self.norm = LayerNorm(width, eps=1e-5, param=Tuned)
        self.down = Linear(width, dim, rngs=rngs, init=init, param=Tuned)
        self.up = Linear(dim, width, rngs=rngs, init=zeros, param=Tuned)
        self.scale = Tuned(jnp.ones((), jnp.float32))

    def mlp(self, x: Float[Array, "b n d"], m: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        branch = self.up(jax.nn.relu(self.down(self.norm(x))))
        return m + self.scale[...].astype(x.dtype) * branch


TUNERS: dict[str, type[Tuner]] = {"adaptformer": AdaptFormer}
PATH_RULES = ("full",)  # methods that train existing weights of the chosen blocks


def parse_names(text: str) -> tuple[str, ...]:
    """The tuners of "adaptformer", "one+another" or "none". Raises UserError for unknown ones."""
    names = () if text == "none" else tuple(name.strip() for name in text.split("+"))
    for name in names:
        if name not in TUNERS and name not in PATH_RULES:
            raise unknown("tuner (tuner.name)", name, [*TUNERS, *PATH_RULES, "none"])
    if len(set(names)) != len(names):
        raise UserError(f"tuner.name is {text!r}: each tuner can be given once.")
    return names


def layers(depth: int, partial: int) -> range:
    """The indices of the tuned blocks: all for partial = 0, else the last `partial`."""
    if not 0 <= partial <= depth:
        raise UserError(
            f"tuner.partial is {partial}, but the backbone has {depth} blocks: give 0 for all, "
            f"or a number from 1 to {depth}."
        )
    return range(depth - partial if partial else 0, depth)


def attach(
    tower: Tower,
    names: Sequence[str],
    classes: int,
    *,
    rngs: nnx.Rngs,
    dim: int = 0,
    partial: int = 0,
    init: str = "kaiming_uniform",
) -> None:
    """Puts new tuners into the chosen blocks of a tower (`tower.blocks`, `tower.width`), in place.

    `dim` 0 takes the tuner's automatic size, from `classes` and the number of tuned layers
    (SPEC: LIFT+ counts the tuned layers; LIFT the whole depth).
    """
    if init not in INITS:
        raise unknown("tuner.init", init, INITS)
    chosen = layers(len(tower.blocks), partial)
    for i in chosen:
        added = {}
        for name in names:
            if name not in PATH_RULES:
                size = dim or TUNERS[name].auto_dim(classes, len(chosen))
                added[name] = TUNERS[name](tower.width, size, INITS[init], rngs=rngs)
        tower.blocks[i].hold(added)


def trainable(
    names: Sequence[str], depth: int, partial: int = 0
) -> Callable[[Path, nnx.Variable], bool]:
    """The predicate `(path, variable) -> bool` behind the split, the optax mask and all the rest.

    A leaf is trained if it is `Tuned` (all that tuners and the head add), or, with `full` among the
    names, if it belongs to one of the chosen blocks of the image tower.
    """
    full = "full" in names
    chosen = layers(depth, partial)

    def is_trainable(path: Path, variable: nnx.Variable) -> bool:
        in_block = path[:2] == ("visual", "blocks") and path[2] in chosen
        return isinstance(variable, Tuned) or (full and in_block)

    return is_trainable
