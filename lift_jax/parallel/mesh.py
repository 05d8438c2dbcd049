"""The device mesh with axes ('data', 'model'), and the shardings of batches and weights on it.

The batch is split over all devices. With the strategy `replicate`, 'model' has size 1 and every
device holds all weights. With `fsdp`, frozen weights and a large head are split over 'model' by one
rule, and gathered layer by layer where they are needed.
"""

import math
from collections.abc import Mapping

import jax
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import AxisType, Mesh, NamedSharding, Sharding
from jax.sharding import PartitionSpec as P

from lift_jax.errors import UserError

SMALL_ARRAY = 2**14  # an array below this size is copied if it cannot be split evenly
LARGE_HEAD = 2**20  # a classifier of this size or more is split, as frozen weights are
GATHERED = "gathered"  # name by which the backward pass knows gathered weights, to drop them


def make_mesh(data: int = 0, model: int = 0, strategy: str = "replicate") -> Mesh:
    """Returns a mesh of all devices.

    Args:
        data: size of the axis 'data'; 0 takes all devices that `model` leaves.
        model: size of the axis 'model'. 0 means 1 with `replicate`. With `fsdp` it means the number
            of devices of one process, so that weights are gathered inside a machine.
        strategy: `replicate` or `fsdp`.

    Raises UserError if data x model is not the number of devices.
    """
    devices = jax.device_count()
    model = model or (jax.local_device_count() if strategy == "fsdp" else 1)
    data = data or devices // model
    if data * model != devices:
        raise UserError(
            f"mesh.data={data or 'auto'} x mesh.model={model} is not the number of devices, "
            f"{devices}. Give numbers whose product it is, or mesh.data=0."
        )
    # make_mesh defaults to explicit axes, under which plain model code does not type check
    return jax.make_mesh((data, model), ("data", "model"), axis_types=(AxisType.Auto,) * 2)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that puts a whole copy on every device."""
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that splits the first axis over all devices."""
    axes = "data" if mesh.shape["model"] == 1 else ("data", "model")
    return NamedSharding(mesh, P(axes))


def frozen_sharding(mesh: Mesh, path: str, shape: tuple[int, ...]) -> NamedSharding:
    """Returns the sharding of a frozen array: its largest axis that 'model' divides is split.

    Vectors, and arrays below `SMALL_ARRAY` with no such axis, are copied. Raises UserError for a
    larger array with no such axis: copies of it would fill every device unnoticed.
    """
    size = mesh.shape["model"]
    if size == 1 or len(shape) < 2:
        return replicated(mesh)
    even = [axis for axis, n in enumerate(shape) if n % size == 0]
    if not even and math.prod(shape) < SMALL_ARRAY:
        return replicated(mesh)
    if not even:
        sizes = [n for n in range(2, size) if any(axis % n == 0 for axis in shape)]
        raise UserError(
            f"mesh.strategy=fsdp cannot cut {path} {list(shape)} into mesh.model={size} equal "
            f"parts. Give mesh.model={' or '.join(map(str, sizes)) or 1}, or "
            "mesh.strategy=replicate."
        )
    longest = max(even, key=lambda axis: shape[axis])
    return NamedSharding(mesh, P(*("model" if a == longest else None for a in range(len(shape)))))


def gather(mesh: Mesh, leaves: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns the leaves whole on every device; call it inside jit.

    Without it XLA would move activations instead, which are larger.
    """
    if mesh.shape["model"] == 1:
        return leaves
    whole = jax.lax.with_sharding_constraint(leaves, replicated(mesh))
    return {path: checkpoint_name(leaf, GATHERED) for path, leaf in whole.items()}


def tuned_sharding(mesh: Mesh, path: str, shape: tuple[int, ...]) -> NamedSharding:
    """Returns the sharding of a tuned leaf: copied, except a head of `LARGE_HEAD` or more."""
    if path.startswith("head/") and math.prod(shape) >= LARGE_HEAD:
        return frozen_sharding(mesh, path, shape)
    return replicated(mesh)


def check_batch(mesh: Mesh, key: str, batch: int, accum: int = 1) -> None:
    """Raises UserError unless every device gets the same number of rows of each micro-batch.

    Args:
        mesh: the devices.
        key: name of the setting that gives the batch size.
        batch: batch size.
        accum: number of micro-batches in a batch.
    """
    devices = mesh.size
    if batch % (devices * accum):
        times = f" x {accum} (train.accum)" if accum > 1 else ""
        raise UserError(
            f"{key} is {batch}; it must be a multiple of the number of devices, {devices}{times}: "
            f"give {-(-batch // (devices * accum)) * devices * accum}."
        )


def put_batch(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Returns global arrays made of each process's own rows, without waiting for the copy."""
    sharding = batch_sharding(mesh)
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}


def put(array: jax.Array | np.ndarray, sharding: Sharding) -> jax.Array:
    """Returns a global array with a sharding, made of an array that every process holds whole."""
    host = np.asarray(array)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])
