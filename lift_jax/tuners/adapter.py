"""Bottleneck tuners: the sequential Adapter, and AdaptFormer, the default of LIFT and LIFT+."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lift_jax.models.blocks import backward
from lift_jax.models.blocks.layers import LayerNorm, Linear, affine
from lift_jax.models.tunable import Fixed, Site, Tuned, Tuner
from lift_jax.tuners.sizes import power_of_two


def kaiming_uniform(key: Array, shape: tuple[int, int], dtype=jnp.float32) -> Array:
    """Draws a kernel [inputs outputs] like torch's kaiming_uniform_ with a = sqrt(5) (LIFT+)."""
    bound = shape[0] ** -0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def kaiming_normal(key: Array, shape: tuple[int, int], dtype=jnp.float32) -> Array:
    """Draws a kernel [inputs outputs] like torch's kaiming_normal_ with a = sqrt(5) (LIFT).

    Its standard deviation is 1 / sqrt(3 inputs).
    """
    return jax.random.normal(key, shape, dtype) * (3 * shape[0]) ** -0.5


EPS = 1e-5  # of the LayerNorm, as in the authors' code, even if the backbone's own have 1e-6
Weights = tuple[Array, Array]  # of a layer: kernel and bias, or scale and bias


@backward.keeping_inputs
def bottleneck(
    x: Float[Array, "... d"], norm: Weights, down: Weights, up: Weights, scale: Array
) -> Float[Array, "... d"]:
    """Returns scale Up(relu(Down(LN(x)))), computed after the LayerNorm in the dtype of `down`.

    The bias is scaled separately, so that the gradient of `scale` reads no further array of the
    size of x.
    """
    y = backward.layer_norm(x, *norm, EPS).astype(down[0].dtype)
    hidden = jax.nn.relu(affine(y, *down))
    kernel, bias, scale = (leaf.astype(y.dtype) for leaf in (*up, scale))
    return scale * (hidden @ kernel) + scale * bias


INITS = {"kaiming_uniform": kaiming_uniform, "kaiming_normal": kaiming_normal}


class Adapter(Tuner):
    """The sequential adapter, a bottleneck after the MLP: m += Up(relu(Down(LN(m)))).

    Up starts at zero, so the tuned model starts as the frozen one. Number of parameters: 2 width
    for the LayerNorm, (width + 1) dim + (dim + 1) width for the bottleneck.
    """

    def __init__(self, site: Site, *, rngs: nnx.Rngs):
        dim = site.settings.dim or self.auto_dim(site.classes, site.tuned_blocks)
        init, zeros = INITS[site.settings.init], nnx.initializers.zeros
        self.norm = LayerNorm(site.width, eps=EPS, param=Tuned)
        self.down = Linear(site.width, dim, rngs=rngs, init=init, param=Tuned)
        self.up = Linear(dim, site.width, rngs=rngs, init=zeros, param=Tuned)

    @staticmethod
    def auto_dim(classes: int, tuned_blocks: int) -> int:
        """Returns the width that gives all blocks together about as many weights as the head."""
        return power_of_two(classes / (2 * tuned_blocks))

    def branch(self, x: Float[Array, "... d"], dtype: DTypeLike) -> Float[Array, "... d"]:
        """Returns the bottleneck's output without x, by matrix products in `dtype`."""
        norm, down, up = (layer.weights() for layer in (self.norm, self.down, self.up))
        return bottleneck(x, norm, (down[0].astype(dtype), down[1]), up, self.scaling())

    def scaling(self) -> Float[Array, ""]:
        """Returns the number that multiplies the output of the bottleneck."""
        return jnp.ones((), jnp.float32)

    def mlp(self, x: Float[Array, "b n d"], m: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        return m + self.branch(m, m.dtype)


class AdaptFormer(Adapter):
    """AdaptFormer, a bottleneck parallel to the MLP: x += s Up(relu(Down(LN(x)))) (LIFT section 4).

    Here x is the residual stream before LN2. Number of parameters: that of an `Adapter`, and 1 for
    the scale s, if it is learned.
    """

    def __init__(self, site: Site, *, rngs: nnx.Rngs):
        super().__init__(site, rngs=rngs)
        fixed = site.settings.fixed_scale
        kind = Tuned if fixed is None else Fixed
        self.scale = kind(jnp.asarray(1.0 if fixed is None else fixed, jnp.float32))

    def scaling(self) -> Float[Array, ""]:
        return self.scale[...]

    def mlp(self, x: Float[Array, "b n d"], m: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        return m + self.branch(x, m.dtype)
