"""What changes while training, and how a model is split into that and the rest."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh
from jax.tree_util import DictKey

from lift_jax.models import tree
from lift_jax.models.tree import Model, Tree
from lift_jax.parallel.mesh import tuned_sharding
from lift_jax.tuners.rules import Path


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """All that a training step changes and a checkpoint holds."""

    step: jax.Array  # i32[], the number of steps done
    tuned: Tree  # float32 leaves by path
    opt: optax.OptState


def trainable_mask(
    leaves: Mapping[str, nnx.Variable], is_trainable: Callable[[Path, nnx.Variable], bool]
) -> dict[str, bool]:
    """The predicate of `tuners.trainable` for every leaf: the mask that optax takes."""
    return {path: is_trainable(tree.parts(path), leaf) for path, leaf in leaves.items()}


def split_trainable(
    model: Model, is_trainable: Callable[[Path, nnx.Variable], bool]
) -> tuple[nnx.GraphDef[Model], Tree, Tree]:
    """Returns (graph, tuned, frozen): `tree.merge(graph, tuned | frozen)` is the model again."""
    graph, leaves = tree.flatten(model)
    mask = trainable_mask(leaves, is_trainable)
    tuned = {p: leaf[...].astype(jnp.float32) for p, leaf in leaves.items() if mask[p]}
    frozen = {p: leaf[...] for p, leaf in leaves.items() if not mask[p]}
    return graph, tuned, frozen


def create_state(tuned: Tree, optimizer: optax.GradientTransformation) -> State:
    return State(step=jnp.zeros((), jnp.int32), tuned=tuned, opt=optimizer.init(tuned))


def state_shardings(state: State, mesh: Mesh) -> State:
    """Where each leaf lies: a tuned leaf and its momentum by one rule, the rest everywhere."""

    def of(path: tuple, leaf: jax.Array | jax.ShapeDtypeStruct) -> jax.sharding.NamedSharding:
        names = [key.key for key in path if isinstance(key, DictKey)]
        return tuned_sharding(mesh, names[-1] if names else "", leaf.shape)

    return jax.tree_util.tree_map_with_path(of, state)
