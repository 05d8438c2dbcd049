"""A stream of the results of a jitted function for the images of a split, in their order."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from lift_jax.evaluation.forward import Batch
from lift_jax.parallel.mesh import put_batch, replicated

Placed = Callable[[Any, Batch], tuple[Array, ...]]  # (leaves, batch) -> arrays, see `placed`
# From leaves and the batches of this process to arrays, batch by batch (see `in_order`).
Stream = Callable[[Any, Iterable[Mapping[str, np.ndarray]]], Iterator[tuple[np.ndarray, ...]]]


def placed(function: Callable[[Any, Batch], tuple[Array, ...]], mesh: Mesh) -> Placed:
    """Returns the jitted function from leaves and a batch to what `in_order` puts in order.

    The batch also holds `position` i32[b], the place of each row in the batch of all processes.
    """

    def work(leaves: Any, batch: Batch) -> tuple[Array, ...]:
        found = function(leaves, batch)
        return batch["position"], batch["mask"], batch["label"], *found

    return jax.jit(work, out_shardings=replicated(mesh))


def in_order(work: Placed, mesh: Mesh) -> Stream:
    """Returns `(leaves, batches) -> results`, which yields a tuple of arrays for each batch.

    The first array holds the index in the split of each image that can be read, ascending. The
    second holds their labels, and the others hold what the function of `work` (`placed`) returns.
    Every process gets the results of all images, from `batches` that hold its own share
    (`loader.eval_batches`). It is compiled once, however many splits it is used for.
    """
    process, processes = jax.process_index(), jax.process_count()

    def stream(
        leaves: Any, batches: Iterable[Mapping[str, np.ndarray]]
    ) -> Iterator[tuple[np.ndarray, ...]]:
        first = 0
        for rows in batches:
            # Each process reads every `processes`-th image, so gathered rows are unordered.
            share = len(rows["label"])
            position = np.arange(process, share * processes, processes, dtype=np.int32)
            batch = put_batch(mesh, {**rows, "position": position})
            position, real, *found = map(np.asarray, work(leaves, batch))
            order = np.argsort(position)
            order = order[real[order]]
            yield first + position[order], *(each[order] for each in found)
            first += len(position)

    return stream
