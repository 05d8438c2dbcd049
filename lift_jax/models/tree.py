"""A module as a flat dict from path ("visual/blocks/0/q/kernel") to leaf, and back.

Plain dicts are what jit, optax, orbax and the sharding rules see: no object graph is walked in the
training loop.
"""

from collections.abc import Mapping
from typing import TypeVar

import jax
from flax import nnx

Tree = dict[str, jax.Array]
Model = TypeVar("Model", bound=nnx.Module)


def flatten(module: Model) -> tuple[nnx.GraphDef[Model], dict[str, nnx.Variable]]:
    """Returns the static graph and the variables by path."""
    graph, state = nnx.split(module)
    return graph, {"/".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(state)}


def merge(graph: nnx.GraphDef[Model], arrays: Mapping[str, jax.Array]) -> Model:
    """Rebuilds the module around the arrays: the inverse of `flatten`, usable inside jit."""
    flat = [(parts(path), array) for path, array in arrays.items()]
    return nnx.merge(graph, nnx.from_flat_state(flat))


def parts(path: str) -> tuple[str | int, ...]:
    """ "visual/blocks/0/q" as ("visual", "blocks", 0, "q"), the form that NNX has."""
    return tuple(int(part) if part.isdigit() else part for part in path.split("/"))
