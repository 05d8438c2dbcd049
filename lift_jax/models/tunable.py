"""What a tuner is: its hooks, what it is told when it is made, and the modules that hold it."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from lift_jax.models.layers import LayerNorm, Linear
from lift_jax.settings.schema import TunerSettings


class Tuned(nnx.Param):
    """A trained leaf: kept in float32, given a gradient, optimised and saved."""


class Fixed(nnx.Variable):
    """What a tuner needs and does not train; made again from the config, never saved."""


@dataclass(frozen=True)
class Site:
    """Where a tuner is put, and how it was asked for.

    Attributes:
        width: of the residual stream, or of a ResNet's feature.
        weights: kernel f32[inputs outputs] and bias of each linear layer, scale and bias of each
            LayerNorm, by name. Of a ResNet the layer behind its attention pooling ("pool") alone.
        classes: of the head.
        layers: how many blocks get the tuner.
        index: which of these it is, from 0.
        patch: of images in pixels; 0 for texts.
    """

    width: int
    weights: Mapping[str, tuple[Array, Array | None]]
    classes: int
    layers: int = 1
    patch: int = 0
    options: TunerSettings = TunerSettings()
    index: int = 0


class Tuner(nnx.Module):
    """What a block asks of a tuner; each hook leaves its input unchanged by default.

    Subclasses take the `Site`. With `merges` they can be folded into the weights.
    """

    merges = False

    def __init__(self, site: Site, *, rngs: nnx.Rngs):
        super().__init__()

    @staticmethod
    def blocks(chosen: Sequence[int]) -> Sequence[int]:
        """Those of the chosen blocks that get the tuner."""
        return chosen

    def weights(self, name: str, kernel: Array, bias: Array | None) -> tuple[Array, Array | None]:
        """Changes the weights of the linear layer `name` (q, k, v, out, gate, fc1, fc2)."""
        return kernel, bias

    def linear(self, name: str, y: Float[Array, "b n i"], out: Float[Array, "b n o"]) -> Array:
        """Changes the output of the linear layer `name` whose input was y; also "pool"."""
        return out

    def normed(self, name: str, y: Float[Array, "b n d"]) -> Array:
        """Changes the output of the LayerNorm `name` (ln1, ln2)."""
        return y

    def mlp(self, x: Float[Array, "b n d"], m: Float[Array, "b n d"]) -> Array:
        """Changes m, what the MLP adds to the residual stream x (before LN2)."""
        return m

    def tokens(
        self, x: Float[Array, "b n d"], angles: Float[Array, "n h"] | None, prompts: int
    ) -> tuple[Array, Array | None, int]:
        """Changes the tokens that enter the block, and their rotary angles where there are some.

        `prompts` of them were put there by tuners; says how many are now.
        """
        return x, angles, prompts

    def fold(self, name: str, kernel: Array, bias: Array | None) -> tuple[Array, Array | None]:
        """The weights of the layer `name` that do what `weights`, `linear` and `normed` do."""
        return self.weights(name, kernel, bias)


class Tunable(nnx.Module):
    """A module that holds tuners and asks them in their order."""

    def hold(self, tuners: Mapping[str, Tuner]) -> None:
        """Takes the tuners by name; they act in the order given."""
        self.tuners = nnx.Dict(tuners)
        self.order = tuple(tuners)

    @property
    def held(self) -> list[Tuner]:
        return [self.tuners[name] for name in self.order]

    @abstractmethod
    def layers(self) -> dict[str, Linear | LayerNorm]:
        """The layers that tuners can be folded into, by the names that they know them by."""

    def merge(self) -> None:
        """Folds its tuners into the weights of its layers, in place."""
        for name, layer in self.layers().items():
            kernel, bias = layer.weights()
            dtype, kernel = kernel.dtype, kernel.astype(jnp.float32)
            bias = None if bias is None else bias.astype(jnp.float32)
            for tuner in self.held:
                kernel, bias = tuner.fold(name, kernel, bias)
            main = layer.kernel if isinstance(layer, Linear) else layer.scale
            main[...] = kernel.astype(dtype)
            if bias is not None:  # which the layer may not have had
                layer.bias = nnx.data(nnx.Param(bias.astype(dtype)))
        self.hold({})
