"""The interface of tuners: their hooks, the site they are made for, and the modules with tuners."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from lift_jax.models.blocks.layers import LayerNorm, Linear
from lift_jax.settings.groups.tuner import TunerSettings


class Tuned(nnx.Param):
    """A trained leaf. It stays in float32, gets a gradient, is optimised and saved."""


class Fixed(nnx.Variable):
    """A leaf that a tuner needs but does not train. It is never saved, but made again."""


@dataclass(frozen=True)
class Site:
    """The place that a tuner is made for: a block of a transformer, or a ResNet's feature.

    Attributes:
        width: width of the residual stream, or of a ResNet's feature.
        weights: kernel f32[inputs outputs] and bias of each linear layer, scale and bias of each
            LayerNorm, by name. A ResNet has one entry, "pool", the output layer of its attention
            pooling, or none.
        classes: number of classes of the head.
        tuned_blocks: number of blocks that get this tuner.
        patch: patch size in pixels; 0 in a text tower and in a ResNet.
        settings: the tuner's settings.
        index: position of this block among the tuned ones, counted from 0.
    """

    width: int
    weights: Mapping[str, tuple[Array, Array | None]]
    classes: int
    tuned_blocks: int = 1
    patch: int = 0
    settings: TunerSettings = TunerSettings()
    index: int = 0

    @property
    def chosen_layers(self) -> list[str]:
        """Returns the names of the layers here that tuner.parts chooses."""
        return [name for name in self.settings.layer_names if name in self.weights]


class Tuner(nnx.Module):
    """The base class of tuners. Each hook returns its input unchanged unless it is overridden.

    The constructor of a subclass takes a `Site` and creates the weights as `Tuned`. A tuner with
    `merges = True` is a linear change of weights and can be folded into them. One with `end = True`
    inserts its tokens after all others instead of after the first.
    """

    merges = False
    end = False

    def __init__(self, site: Site, *, rngs: nnx.Rngs):
        super().__init__()

    @staticmethod
    def blocks(chosen: Sequence[int]) -> Sequence[int]:
        """Returns the subset of the chosen blocks that this tuner is attached to."""
        return chosen

    def weights(
        self, name: str, kernel: Float[Array, "i o"], bias: Float[Array, " o"] | None
    ) -> tuple[Float[Array, "i o"], Float[Array, " o"] | None]:
        """Returns changed weights of the linear layer `name` (q, k, v, out, gate, fc1, fc2)."""
        return kernel, bias

    def linear(
        self, name: str, y: Float[Array, "b n i"], out: Float[Array, "b n o"]
    ) -> Float[Array, "b n o"]:
        """Returns the changed output of the linear layer `name`, whose input was y.

        In a ResNet with tuners `name` is "pool", and `out` the pooled feature.
        """
        return out

    def normed(self, name: str, y: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        """Returns the changed output of the LayerNorm `name` (ln1, ln2)."""
        return y

    def mlp(self, x: Float[Array, "b n d"], m: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        """Returns the changed output m of the MLP, which is then added to the residual stream x.

        Matrix products belong in the dtype of m; that of x may be wider.
        """
        return m

    def tokens(
        self, x: Float[Array, "b n d"], angles: Float[Array, "n h"] | None, prompts: int
    ) -> tuple[Float[Array, "b m d"], Float[Array, "m h"] | None, int]:
        """Returns changed input tokens of the block, their rotary angles and the prompt count.

        `angles` is None in towers without rotary positions. `prompts` is the number of tokens in x
        that tuners have inserted so far.
        """
        return x, angles, prompts

    def fold(
        self, name: str, kernel: Float[Array, "i o"], bias: Float[Array, " o"] | None
    ) -> tuple[Float[Array, "i o"], Float[Array, " o"] | None]:
        """Returns weights of the layer `name` that include this tuner's change.

        The layer with these weights computes what `weights`, `linear` and `normed` give together.
        """
        return self.weights(name, kernel, bias)


class Tunable(nnx.Module):
    """A module that holds tuners and applies them in a fixed order."""

    def hold(self, tuners: Mapping[str, Tuner]) -> None:
        """Replaces the tuners by these, which act in the order given."""
        self.tuners = nnx.Dict(tuners)
        self.order = tuple(tuners)

    @property
    def held(self) -> list[Tuner]:
        """Returns the tuners in the order in which they act."""
        return [self.tuners[name] for name in self.order]

    @abstractmethod
    def layers(self) -> dict[str, Linear | LayerNorm]:
        """Returns the layers that tuners can change, by the names that the hooks get."""

    def merge(self) -> None:
        """Folds the tuners into the weights of the layers, in place, and drops them."""
        for name, layer in self.layers().items():
            kernel, bias = layer.weights()
            dtype, kernel = kernel.dtype, kernel.astype(jnp.float32)
            bias = None if bias is None else bias.astype(jnp.float32)
            for tuner in self.held:
                kernel, bias = tuner.fold(name, kernel, bias)
            main = layer.kernel if isinstance(layer, Linear) else layer.scale
            main[...] = kernel.astype(dtype)
            if bias is not None:  # a layer without one may have gained it
                layer.bias = nnx.data(nnx.Param(bias.astype(dtype)))
        self.hold({})
