"""SSF: scaling and shifting of features."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from lift_jax.models.blocks.layers import Normal
from lift_jax.models.tunable import Site, Tuned, Tuner


class ScaleShift(nnx.Module):
    """A map y * scale + shift along the last axis. It starts near the identity."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.scale = Tuned(1 + Normal(0.02)(rngs.params(), (width,), jnp.float32))
        self.shift = Tuned(Normal(0.02)(rngs.params(), (width,), jnp.float32))

    def __call__(self, y: Float[Array, "... d"]) -> Float[Array, "... d"]:
        return y * self.scale[...].astype(y.dtype) + self.shift[...].astype(y.dtype)


class SSF(Tuner):
    """SSF: y * scale + shift on the outputs of linear layers and LayerNorms.

    tuner.parts chooses the layers, but never the gate of a gated MLP. In a ResNet SSF acts on the
    feature. Number of parameters: twice the width of each output.
    """

    merges = True

    def __init__(self, site: Site, *, rngs: nnx.Rngs):
        widths = {name: site.weights[name][0].shape[-1] for name in site.chosen_layers}
        for name, width in (widths or {"pool": site.width}).items():
            setattr(self, name, ScaleShift(width, rngs=rngs))
        self.names = tuple(widths) or ("pool",)

    def normed(self, name: str, y: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        return getattr(self, name)(y) if name in self.names else y

    def linear(self, name: str, y: Float[Array, "b n i"], out: Float[Array, "b n o"]) -> Array:
        return self.normed(name, out)

    def fold(self, name: str, kernel: Array, bias: Array | None) -> tuple[Array, Array | None]:
        if name not in self.names:
            return kernel, bias
        start = jnp.zeros(kernel.shape[-1]) if bias is None else bias
        return kernel * getattr(self, name).scale[...], self.normed(name, start)
