"""Devices as a mesh ('data', 'model'), and what lies where on it.

The batch is cut over all devices. With the strategy `replicate` ('model' has one place then) all
weights are on every device; with `fsdp` the frozen ones and a large head are cut over 'model' by
one rule, and gathered layer by layer where they are needed.
"""

import math
from collections.abc import Mapping

import jax
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import AxisType, Mesh, NamedSharding, Sharding
from jax.sharding import PartitionSpec as P

from lift_jax.errors import UserError

SMALL = 2**14  # numbers in an array that may be copied where it cannot be cut
LARGE_HEAD = 2**20  # numbers in a head that is


def make_mesh(data: int = 0, model: int = 0, strategy: str = "replicate") -> Mesh:
    """Arranges the devices; `data` 0 takes all that `model` leaves.

    `model` 0 is 1, but for fsdp the devices of one process: what is gathered in every layer then
    stays inside a machine. Raises UserError if the devices do not come out even.
    """
    devices = jax.device_count()
    model = model or (jax.local_device_count() if strategy == "fsdp" else 1)
    data = data or devices // model
    if data * model != devices:
        raise UserError(
            f"mesh.data {data or 'auto'} x mesh.model {model} does not use the {devices} devices "
            "here exactly. Give numbers whose product is the number of devices, or mesh.data=0."
        )
    # make_mesh defaults to explicit axes, under which plain model code does not type check
    return jax.make_mesh((data, model), ("data", "model"), axis_types=(AxisType.Auto,) * 2)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis over all devices."""
    axes = "data" if mesh.shape["model"] == 1 else ("data", "model")
    return NamedSharding(mesh, P(axes))


def frozen_sharding(mesh: Mesh, path: str, shape: tuple[int, ...]) -> NamedSharding:
    """Cuts the largest axis that the model axis divides; vectors are copied.

    Raises UserError for an array with no such axis, but a small one, which is copied: others would
    fill every device unnoticed.
    """
    size = mesh.shape["model"]
    if size == 1 or len(shape) < 2:
        return replicated(mesh)
    even = [axis for axis, n in enumerate(shape) if n % size == 0]
    if not even and math.prod(shape) < SMALL:
        return replicated(mesh)
    if not even:
        fits = [n for n in range(2, size) if any(axis % n == 0 for axis in shape)]
        raise UserError(
            f"mesh.strategy=fsdp cannot cut {path} {list(shape)} into mesh.model={size} equal "
            f"parts. Give mesh.model={' or '.join(map(str, fits)) or 1}, or "
            "mesh.strategy=replicate."
        )
    longest = max(even, key=lambda axis: shape[axis])
    return NamedSharding(mesh, P(*("model" if a == longest else None for a in range(len(shape)))))


GATHERED = "gathered"  # under which name a backward pass knows what it must not keep


def gather(mesh: Mesh, leaves: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The leaves whole on every device, inside jit. XLA left alone would move activations, which
    are larger."""
    if mesh.shape["model"] == 1:
        return leaves
    whole = jax.lax.with_sharding_constraint(leaves, replicated(mesh))
    return {path: checkpoint_name(leaf, GATHERED) for path, leaf in whole.items()}


def tuned_sharding(mesh: Mesh, path: str, shape: tuple[int, ...]) -> NamedSharding:
    """Tuned leaves are copied, but for a large head, which is cut as frozen weights are."""
    if path.startswith("head/") and math.prod(shape) >= LARGE_HEAD:
        return frozen_sharding(mesh, path, shape)
    return replicated(mesh)


def check_batch(mesh: Mesh, key: str, batch: int, accum: int = 1) -> None:
    """Raises UserError unless every device gets the same number of rows of each micro-batch."""
    devices = mesh.size
    if batch % (devices * accum):
        times = f" x {accum} (train.accum)" if accum > 1 else ""
        raise UserError(
            f"{key} is {batch}; it must be a multiple of the number of devices, {devices}{times}: "
            f"give {-(-batch // (devices * accum)) * devices * accum}."
        )


def put_batch(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Makes global arrays from this process's rows, without waiting for the copy."""
    sharding = batch_sharding(mesh)
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}


def put(array: jax.Array | np.ndarray, sharding: Sharding) -> jax.Array:
    """Places an array that every process holds whole."""
    host = np.asarray(array)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])
