"""The state of training, and the split of a model into tuned and frozen leaves."""

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
    """Everything that a training step changes and a checkpoint holds."""

    step: jax.Array  # i32[], number of steps that are done
    tuned: Tree  # float32 leaves by path
    opt: optax.OptState


def trainable_mask(
    leaves: Mapping[str, nnx.Variable], is_trainable: Callable[[Path, nnx.Variable], bool]
) -> dict[str, bool]:
    """Returns by path whether a leaf is trained, as optax takes it.

    `is_trainable` is a predicate as `tuners.rules.trainable` returns it.
    """
    return {path: is_trainable(tree.parts(path), leaf) for path, leaf in leaves.items()}


def split_trainable(
    model: Model, is_trainable: Callable[[Path, nnx.Variable], bool]
) -> tuple[nnx.GraphDef[Model], Tree, Tree]:
    """Returns the graph, the tuned leaves in float32, and the frozen leaves of a model.

    `tree.merge(graph, tuned | frozen)` gives the model again.
    """
    graph, leaves = tree.flatten(model)
    mask = trainable_mask(leaves, is_trainable)
    tuned = {p: leaf[...].astype(jnp.float32) for p, leaf in leaves.items() if mask[p]}
    frozen = {p: leaf[...] for p, leaf in leaves.items() if not mask[p]}
    return graph, tuned, frozen


def create_state(tuned: Tree, optimizer: optax.GradientTransformation) -> State:
    """Returns the state before the first step."""
    return State(step=jnp.zeros((), jnp.int32), tuned=tuned, opt=optimizer.init(tuned))


def state_shardings(state: State, mesh: Mesh) -> State:
    """Returns the sharding of each leaf.

    A tuned leaf and its momentum have the same sharding; all other leaves are replicated.
    """

    def sharding(path: tuple, leaf: jax.Array | jax.ShapeDtypeStruct) -> jax.sharding.NamedSharding:
        names = [key.key for key in path if isinstance(key, DictKey)]
        return tuned_sharding(mesh, names[-1] if names else "", leaf.shape)

    return jax.tree_util.tree_map_with_path(sharding, state)
