"""Tests of modules as flat dicts: paths, and the way back."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from lift_jax.models import tree
from lift_jax.models.blocks.layers import Linear


class Two(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.layers = nnx.List([Linear(2, 3, rngs=rngs), Linear(3, 1, rngs=rngs, bias=False)])

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def test_a_module_comes_back_from_its_arrays():
    module, x = Two(), jnp.ones((4, 2))
    graph, arrays = tree.split(module)
    assert {path: array.shape for path, array in arrays.items()} == {
        "layers/0/bias": (3,), "layers/0/kernel": (2, 3), "layers/1/kernel": (3, 1),
    }  # fmt: skip
    np.testing.assert_array_equal(tree.merge(graph, arrays)(x), module(x))
    doubled = arrays | {"layers/1/kernel": 2 * arrays["layers/1/kernel"]}
    np.testing.assert_array_equal(tree.merge(graph, doubled)(x), 2 * module(x))
    assert tree.parts("layers/0/kernel") == ("layers", 0, "kernel")
