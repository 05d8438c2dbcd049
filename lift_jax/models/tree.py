"""Conversion between a module and a flat dict from path ("visual/blocks/0/q/kernel") to leaf.

jit, optax, orbax and the sharding rules get plain dicts, so the training loop never walks an object
graph.
"""

from collections.abc import Mapping
from typing import TypeVar

import jax
from flax import nnx

Tree = dict[str, jax.Array]
Model = TypeVar("Model", bound=nnx.Module)


class NoDraws(nnx.Rngs):
    """The random streams of a module of which only the shapes are wanted: one key for all draws.

    A stream counts its draws. Where a module is traced, Flax asks each count for its sharding, and
    JAX goes through all operations so far to say why it has none: of a large backbone that takes
    most of the time.
    """

    def params(self) -> jax.Array:
        return self.default.key[...]  # type: ignore[attr-defined]  # `Rngs` sets it by name


def flatten(module: Model) -> tuple[nnx.GraphDef[Model], dict[str, nnx.Variable]]:
    """Returns the static graph of a module, and its variables by path."""
    graph, state = nnx.split(module)
    return graph, {"/".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(state)}


def split(module: Model) -> tuple[nnx.GraphDef[Model], Tree]:
    """Returns the static graph of a module, and its arrays by path: what `merge` takes."""
    graph, leaves = flatten(module)
    return graph, {path: leaf[...] for path, leaf in leaves.items()}


def merge(graph: nnx.GraphDef[Model], arrays: Mapping[str, jax.Array]) -> Model:
    """Returns the module with these arrays: the inverse of `split`, usable inside jit."""
    flat = [(parts(path), array) for path, array in arrays.items()]
    return nnx.merge(graph, nnx.from_flat_state(flat))


def parts(path: str) -> tuple[str | int, ...]:
    """Splits a path as NNX does: "visual/blocks/0/q" gives ("visual", "blocks", 0, "q")."""
    return tuple(int(part) if part.isdigit() else part for part in path.split("/"))
