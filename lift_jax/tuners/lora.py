"""LoRA: low-rank changes of the attention (`lora`) or of the MLP (`lora_mlp`)."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from lift_jax.models.tunable import Site, Tuned, Tuner
from lift_jax.tuners.sizes import power_of_two


class LowRank(nnx.Module):
    """A low-rank map y A B / r, with A = down f32[inputs r] and B = up f32[r outputs].

    B starts at zero.
    """

    def __init__(self, inputs: int, outputs: int, rank: int, *, rngs: nnx.Rngs):
        # the authors store A in a layout in which torch's rule counts r inputs
        bound = rank**-0.5
        down = jax.random.uniform(rngs.params(), (inputs, rank), jnp.float32, -bound, bound)
        self.down = Tuned(down)
        self.up = Tuned(jnp.zeros((rank, outputs), jnp.float32))

    def __call__(self, y: Float[Array, "... i"]) -> Float[Array, "... o"]:
        down, up = self.down[...].astype(y.dtype), self.up[...].astype(y.dtype)
        return y @ down @ up / down.shape[1]


class LoRA(Tuner):
    """LoRA on the attention: q += y A B / r and v += y A B / r, with y = LN1 x.

    Number of parameters: r (inputs + outputs) for each of the two layers.
    """

    merges = True
    names = ("q", "v")

    def __init__(self, site: Site, *, rngs: nnx.Rngs):
        settings = site.settings
        rank = settings.dim or self.auto_dim(site.classes, site.tuned_blocks, settings.budget)
        for name in self.names:
            inputs, outputs = site.weights[name][0].shape
            setattr(self, name, LowRank(inputs, outputs, rank, rngs=rngs))

    @staticmethod
    def auto_dim(classes: int, tuned_blocks: int, budget: str = "joint") -> int:
        """Returns the rank that gives LoRA about as many weights as the head.

        With `budget` "joint" (LIFT+) both layers of all tuned blocks count together, with "each"
        (LIFT) separately. LIFT's code divides by the depth even if fewer blocks are tuned.
        """
        return power_of_two(classes / ((4 if budget == "joint" else 2) * tuned_blocks))

    def linear(self, name: str, y: Float[Array, "b n i"], out: Float[Array, "b n o"]) -> Array:
        return out + getattr(self, name)(y) if name in self.names else out

    def fold(self, name: str, kernel: Array, bias: Array | None) -> tuple[Array, Array | None]:
        return self.linear(name, jnp.eye(len(kernel)), kernel), bias


class LoRAMLP(LoRA):
    """LoRA on both projections of the MLP, fc1 and fc2, but not on the gate of a gated MLP."""

    names = ("fc1", "fc2")
