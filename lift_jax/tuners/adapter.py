"""Bottleneck tuners: the sequential Adapter, and AdaptFormer, the default of LIFT and LIFT+."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from lift_jax.models.layers import LayerNorm, Linear
from lift_jax.models.tunable import Site, Tuned, Tuner
from lift_jax.tuners.sizes import power_of_two


def kaiming_uniform(key: Array, shape: tuple[int, int], dtype=jnp.float32) -> Array:
    """torch's kaiming uniform with a = sqrt(5) for a kernel [inputs, outputs]: LIFT+'s start."""
    bound = shape[0] ** -0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def kaiming_normal(key: Array, shape: tuple[int, int], dtype=jnp.float32) -> Array:
    """torch's kaiming normal with a = sqrt(5), standard deviation 1/sqrt(3 inputs): LIFT's."""
    return jax.random.normal(key, shape, dtype) * (3 * shape[0]) ** -0.5


INITS = {"kaiming_uniform": kaiming_uniform, "kaiming_normal": kaiming_normal}


class Adapter(Tuner):
    """A bottleneck behind the MLP: m += Up(relu(Down(LN(m)))).

    Up starts at zero, so that the tuned model starts as the frozen one. Parameters: 2 width for
    the LayerNorm, (width + 1) dim + (dim + 1) width for the bottleneck.
    """

    def __init__(self, site: Site, *, rngs: nnx.Rngs):
        dim = site.options.dim or self.auto_dim(site.classes, site.layers)
        init, zeros = INITS[site.options.init], nnx.initializers.zeros
        # eps is 1e-5 even where the backbone's own LayerNorms have 1e-6, as in the authors' code
        self.norm = LayerNorm(site.width, eps=1e-5, param=Tuned)
        self.down = Linear(site.width, dim, rngs=rngs, init=init, param=Tuned)
        self.up = Linear(dim, site.width, rngs=rngs, init=zeros, param=Tuned)

    @staticmethod
    def auto_dim(classes: int, layers: int) -> int:
        """The size that gives the tuned layers together about as many weights as the head."""
        return power_of_two(classes / (2 * layers))

    def branch(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        return self.up(jax.nn.relu(self.down(self.norm(x))))

    def mlp(self, x: Float[Array, "b n d"], m: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        return m + self.branch(m)


class AdaptFormer(Adapter):
    """A bottleneck beside the MLP: x += s * Up(relu(Down(LN(x)))), x before LN2 (LIFT section 4).

    Parameters: those of an `Adapter`, and 1 for s.
    """

    def __init__(self, site: Site, *, rngs: nnx.Rngs):
        super().__init__(site, rngs=rngs)
        self.scale = Tuned(jnp.ones((), jnp.float32))

    def mlp(self, x: Float[Array, "b n d"], m: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        return m + self.scale[...].astype(x.dtype) * self.branch(x)
