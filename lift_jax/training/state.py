"""The state of training, and the split of a model into tuned and frozen leaves."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh
from jax.tree_util import DictKey, GetAttrKey

from lift_jax.models import tree
from lift_jax.models.tree import Model, Tree
from lift_jax.parallel.mesh import tuned_sharding
from lift_jax.tuners.rules import Path


@jax.tree_util.register_pytree_with_keys_class
@dataclass(frozen=True)
class State:
    """Everything that a training step changes and a checkpoint holds.

    Without an average it has three parts, as checkpoints of runs without train.ema have.
    """

    step: jax.Array  # i32[], number of steps that are done
    tuned: Tree  # float32 leaves by path
    opt: optax.OptState
    ema: Tree | None = None  # moving average of `tuned`, None without train.ema

    @property
    def weights(self) -> Tree:
        """Returns the tuned leaves that are validated, tested, kept and exported.

        They are the averaged ones with train.ema. Only the training step takes `tuned` itself.
        """
        return self.tuned if self.ema is None else self.ema

    def tree_flatten_with_keys(self) -> tuple[tuple[tuple[Any, Any], ...], None]:
        """Returns the parts by name; the average is no part if there is none."""
        parts = {"step": self.step, "tuned": self.tuned, "opt": self.opt}
        parts |= {} if self.ema is None else {"ema": self.ema}
        return tuple((GetAttrKey(name), part) for name, part in parts.items()), None

    @classmethod
    def tree_unflatten(cls, _: None, parts: tuple[Any, ...]) -> Self:
        """Returns the state of these parts."""
        return cls(*parts)


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


def create_state(
    tuned: Tree, optimizer: optax.GradientTransformation, averages: bool = False
) -> State:
    """Returns the state before the first step, with an average if `averages` is True."""
    ema = jax.tree.map(jnp.copy, tuned) if averages else None
    return State(jnp.zeros((), jnp.int32), tuned, optimizer.init(tuned), ema)


def moving_average(state: State, tuned: Tree, decay: float) -> Tree | None:
    """Returns the average after a step that gave `tuned`; None if the state holds none.

    The first step's leaves are copied; each later step gives decay * average + (1 - decay) * leaf.
    A value that does not change stays as it is to the bit, such as that of a leaf without training.
    """
    if state.ema is None:
        return None

    def average(old: jax.Array, new: jax.Array) -> jax.Array:
        return jnp.where((state.step == 0) | (old == new), new, decay * old + (1 - decay) * new)

    return jax.tree.map(average, state.ema, tuned)


def state_shardings(state: State, mesh: Mesh) -> State:
    """Returns the sharding of each leaf.

    A tuned leaf, its moments and its average have the same sharding; all others are replicated.
    """

    def sharding(path: tuple, leaf: jax.Array | jax.ShapeDtypeStruct) -> jax.sharding.NamedSharding:
        names = [key.key for key in path if isinstance(key, DictKey)]
        return tuned_sharding(mesh, names[-1] if names else "", leaf.shape)

    return jax.tree_util.tree_map_with_path(sharding, state)
