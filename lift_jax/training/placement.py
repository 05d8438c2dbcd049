"""Precision of the weights, and their placement on the mesh."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from lift_jax.models.tree import Tree
from lift_jax.parallel.mesh import (
    batch_sharding,
    frozen_sharding,
    put,
    replicated,
    tuned_sharding,
)


def uses_bfloat16(precision: str) -> bool:
    """Returns True if frozen weights are kept in bfloat16.

    `precision` is model.precision: float32, bfloat16, or auto (bfloat16 on accelerators).
    """
    return precision == "bfloat16" or (precision == "auto" and jax.default_backend() != "cpu")


def stays_float32(path: str) -> bool:
    """Returns True for a frozen leaf that is never bfloat16: any of the head but its text tower."""
    return path.startswith("head/") and not path.startswith("head/text/")


@dataclass(frozen=True)
class Placement:
    """Rules by which weights are placed on the devices of a mesh.

    Attributes:
        mesh: the devices.
        bfloat16: True if frozen weights are kept in bfloat16.
        exact: True if the tower is loaded in float32, because some of its weights are trained.
    """

    mesh: Mesh
    bfloat16: bool
    exact: bool

    def loaded(self, path: str, array: np.ndarray) -> jax.Array:
        """Places one leaf of the backbone as it is read.

        Leaves of the image tower are placed for the whole run. All others are used once, in
        float32, on one device.
        """
        if not path.startswith("visual/"):
            return jax.device_put(array.astype(np.float32, copy=False))
        half = self.bfloat16 and not self.exact
        array = array.astype(jnp.bfloat16 if half else np.float32, copy=False)
        return put(array, frozen_sharding(self.mesh, path, array.shape))

    def frozen(self, leaves: Tree) -> Tree:
        """Returns frozen leaves in their precision, placed on the mesh."""
        return {path: self._frozen(path, leaf) for path, leaf in leaves.items()}

    def _frozen(self, path: str, leaf: jax.Array) -> jax.Array:
        if path == "head/tokens":
            return put(leaf, batch_sharding(self.mesh))
        if stays_float32(path):
            return put(leaf, replicated(self.mesh))
        if self.bfloat16 and leaf.dtype == jnp.float32:
            sharding = frozen_sharding(self.mesh, path, leaf.shape)
            return put(leaf.astype(jnp.bfloat16), sharding)
        return leaf

    def tuned(self, leaves: Tree) -> Tree:
        """Returns tuned leaves placed on the mesh."""
        return {
            path: put(leaf, tuned_sharding(self.mesh, path, leaf.shape))
            for path, leaf in leaves.items()
        }
