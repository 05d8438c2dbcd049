"""Precision of the weights, and their placement on the mesh."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from lift_jax.models.backbone import Tower
from lift_jax.models.precision import Precision
from lift_jax.models.text import TextTransformer
from lift_jax.models.tree import Tree
from lift_jax.parallel.mesh import (
    batch_sharding,
    frozen_sharding,
    put,
    replicated,
    tuned_sharding,
)
from lift_jax.settings.groups.model import ModelSettings


def chosen_precision(model: ModelSettings) -> Precision:
    """Returns the precision that model.precision and model.residual say, on the devices here."""
    kind, same = model.precision, model.residual == "same"
    if kind == "auto":  # with "same" as in version 0.1.0, which knew no float16
        on = {"cpu": "float32", "gpu": "bfloat16" if same else "float16"}
        kind = on.get(jax.default_backend(), "bfloat16")
    return Precision.of(kind, kind if same else model.residual)


def stays_float32(path: str) -> bool:
    """Returns True for a leaf that no tower holds: any of the head but its text tower."""
    return path.startswith("head/") and not path.startswith("head/text/")


def kept_type(path: str, dtype: np.dtype, precision: Precision) -> np.dtype:
    """Returns the type in which a frozen leaf of a classifier is kept.

    Only float32 leaves of towers change.
    """
    is_own = stays_float32(path) or dtype != jnp.float32
    return dtype if is_own else precision.of_weight(path)


def use_precision(precision: Precision, *towers: Tower | TextTransformer | None) -> None:
    """Sets the types in which towers compute; one with the same in all follows its weights."""
    for tower in towers:
        if tower is not None and precision.mixed:
            tower.precision = precision


@dataclass(frozen=True)
class Placement:
    """Rules by which weights are placed on the devices of a mesh.

    Attributes:
        mesh: the devices.
        precision: types of the frozen weights.
        exact: True if the tower is loaded in float32, because some of its weights are trained.
    """

    mesh: Mesh
    precision: Precision
    exact: bool

    def loaded(self, path: str, array: np.ndarray) -> jax.Array:
        """Places one leaf of the backbone as it is read.

        Leaves of the image tower are placed for the whole run. All others are used once, in
        float32, on one device.
        """
        if not path.startswith("visual/"):
            return jax.device_put(array.astype(np.float32, copy=False))
        dtype = np.float32 if self.exact else self.precision.of_weight(path)
        array = array.astype(dtype, copy=False)
        return put(array, frozen_sharding(self.mesh, path, array.shape))

    def frozen(self, leaves: Tree) -> Tree:
        """Returns frozen leaves in their precision, placed on the mesh."""
        return {path: self._frozen(path, leaf) for path, leaf in leaves.items()}

    def _frozen(self, path: str, leaf: jax.Array) -> jax.Array:
        if path == "head/tokens":
            return put(leaf, batch_sharding(self.mesh))
        if stays_float32(path):
            return put(leaf, replicated(self.mesh))
        dtype = kept_type(path, leaf.dtype, self.precision)
        if dtype != leaf.dtype:
            return put(leaf.astype(dtype), frozen_sharding(self.mesh, path, leaf.shape))
        return leaf

    def tuned(self, leaves: Tree) -> Tree:
        """Returns tuned leaves placed on the mesh."""
        return {
            path: put(leaf, tuned_sharding(self.mesh, path, leaf.shape))
            for path, leaf in leaves.items()
        }
