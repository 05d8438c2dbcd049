"""Precision: the type of each array in a tower, said in one place."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class Precision:
    """The types of the arrays in a tower.

    A tower converts to `products` what enters the layers of a branch, and adds the branch's result
    to the residual stream in `stream`. A layer computes in the type of its input, and a tuner in
    that of what it changes. LayerNorm and softmax compute in float32 anyway.

    Attributes:
        products: type of kernels, and of both operands of matrix products and convolutions.
        stream: type of the residual stream and of all weights but kernels.
    """

    products: np.dtype
    stream: np.dtype

    @property
    def mixed(self) -> bool:
        """Returns True if the two types differ."""
        return self.products != self.stream

    def of_weight(self, path: str) -> np.dtype:
        """Returns the type in which a frozen weight of a tower is kept."""
        return self.products if path.endswith("/kernel") else self.stream

    @staticmethod
    def of(products: str, stream: str) -> "Precision":
        """Returns the precision with types of these names."""
        return Precision(np.dtype(products), np.dtype(stream))


FLOAT32 = Precision.of("float32", "float32")
HALVES = (jnp.bfloat16, jnp.float16)


def types_of(own: Precision | None, weight: jax.Array) -> Precision:
    """Returns a tower's own precision; without one, the type of its first weight for all arrays."""
    return own or Precision(weight.dtype, weight.dtype)
