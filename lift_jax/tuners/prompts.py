"""Visual prompt tuning (VPT): learned tokens, in the first block alone or in every block."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from lift_jax.errors import UserError
from lift_jax.models.blocks.layers import Normal
from lift_jax.models.tunable import Site, Tuned, Tuner
from lift_jax.tuners.sizes import power_of_two


class Prompts(Tuner):
    """VPT-deep: learned tokens, right after the first token or at the end, new ones in each block.

    Prompts pass through blocks that have none of their own. They have no rotary angle, and
    SigLIP's pooling attends to them as to patches. Number of parameters: length x width for each
    block.

    tuner.place chooses position and initialisation: "start" (LIFT+) draws from a normal
    distribution with standard deviation 0.02, "end" (LIFT) uniformly between
    +-sqrt(6 / (3 patch^2 + width)). Without causal attention the position changes no result.
    """

    def __init__(self, site: Site, *, rngs: nnx.Rngs):
        length = site.settings.prompts or self.auto_dim(site.classes, site.tuned_blocks)
        self.end = site.settings.place == "end"
        if self.end and not site.patch:
            raise UserError(
                "tuner.place is 'end', but a text attends to nothing behind its end, so prompts "
                "there would change nothing. Set tuner.place=start."
            )
        shape, key = (length, site.width), rngs.params()
        bound = math.sqrt(6 / (3 * site.patch**2 + site.width))
        uniform = jax.random.uniform(key, shape, jnp.float32, -bound, bound)
        self.prompt = Tuned(uniform if self.end else Normal(0.02)(key, shape, jnp.float32))

    @staticmethod
    def auto_dim(classes: int, tuned_blocks: int) -> int:
        """Returns the number of prompts that gives all blocks about as many weights as the head."""
        return power_of_two(classes / tuned_blocks)

    def tokens(
        self, x: Float[Array, "b n d"], angles: Float[Array, "n h"] | None, prompts: int
    ) -> tuple[Array, Array | None, int]:
        start = x.shape[1] - prompts if self.end else 1
        rows = self.prompt[...].astype(x.dtype)

        def replace_prompts(old: Array, new: Array) -> Array:
            before, after = old[..., :start, :], old[..., start + prompts :, :]
            return jnp.concatenate([before, new, after], axis=-2)

        if angles is not None:
            angles = replace_prompts(angles, jnp.zeros((len(rows), angles.shape[1]), angles.dtype))
        x = replace_prompts(x, jnp.broadcast_to(rows, (x.shape[0], *rows.shape)))
        return x, angles, len(rows)


class ShallowPrompts(Prompts):
    """VPT-shallow: prompts in the first chosen block alone."""

    @staticmethod
    def blocks(chosen: Sequence[int]) -> Sequence[int]:
        return chosen[:1]
