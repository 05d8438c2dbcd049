"""Devices as a mesh ('data', 'model'), and what lies where on it.

The batch is cut over all devices. Tuned leaves, optimizer and head are on every device. So are the
frozen weights, unless mesh.model > 1: then each is cut over 'model' by one rule.
"""

from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lift_jax.errors import UserError


def make(data: int = 0, model: int = 1) -> Mesh:
    """Arranges the devices; `data` 0 takes all that `model` leaves.

    Raises UserError if the devices do not come out even.
    """
    devices = jax.device_count()
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


def frozen_sharding(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    """Cuts the largest axis that the model axis divides; vectors and uneven arrays are copied."""
    size = mesh.shape["model"]
    even = [axis for axis, n in enumerate(shape) if n % size == 0]
    if size == 1 or len(shape) < 2 or not even:
        return replicated(mesh)
    longest = max(even, key=lambda axis: shape[axis])
    return NamedSharding(mesh, P(*("model" if a == longest else None for a in range(len(shape)))))


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


def put(array: jax.Array | np.ndarray, sharding: NamedSharding) -> jax.Array:
    """Places an array that every process holds whole."""
    host = np.asarray(array)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])
