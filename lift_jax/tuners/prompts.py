"""Visual prompt tuning (VPT): learned tokens in the first block or in every block."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from lift_jax.errors import UserError
from lift_jax.models.layers import Normal
from lift_jax.models.tunable import Site, Tuned, Tuner
from lift_jax.tuners.sizes import power_of_two


class Prompts(Tuner):
    """Learned tokens, right after the first one or at the end, new ones in every chosen block.

    Prompts pass through blocks that have none of their own. Where tokens see all others their
    place changes nothing; "end" also means LIFT's start, uniform between +-sqrt(6 / (3 patch^2 +
    width)), and "start" LIFT+'s, normal of standard deviation 0.02. They have no rotary angle.
    SigLIP's pooling attends to them as to patches. Parameters: length x width in each block.
    """

    def __init__(self, site: Site, *, rngs: nnx.Rngs):
        length = site.options.prompts or self.auto_dim(site.classes, site.layers)
        self.end = site.options.place == "end"
        if self.end and not site.patch:
            raise UserError("tuner.place is 'end', but no text looks behind its end: give start.")
        shape, key = (length, site.width), rngs.params()
        bound = math.sqrt(6 / (3 * site.patch**2 + site.width))
        uniform = jax.random.uniform(key, shape, jnp.float32, -bound, bound)
        self.prompt = Tuned(uniform if self.end else Normal(0.02)(key, shape, jnp.float32))

    @staticmethod
    def auto_dim(classes: int, layers: int) -> int:
        """The length that gives the tuned layers together about as many weights as the head."""
        return power_of_two(classes / layers)

    def tokens(
        self, x: Float[Array, "b n d"], angles: Float[Array, "n h"] | None, prompts: int
    ) -> tuple[Array, Array | None, int]:
        start = x.shape[1] - prompts if self.end else 1
        rows = self.prompt[...].astype(x.dtype)

        def put(old: Array, new: Array) -> Array:
            before, after = old[..., :start, :], old[..., start + prompts :, :]
            return jnp.concatenate([before, new, after], axis=-2)

        if angles is not None:
            angles = put(angles, jnp.zeros((len(rows), angles.shape[1]), angles.dtype))
        return put(x, jnp.broadcast_to(rows, (len(x), *rows.shape))), angles, len(rows)


class ShallowPrompts(Prompts):
    """The same in the first chosen block alone."""

    @staticmethod
    def blocks(chosen: Sequence[int]) -> Sequence[int]:
        return chosen[:1]
