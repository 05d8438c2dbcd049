"""The batches of a split through jitted functions: results in the order of the images, or sums."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, ArrayLike, PyTree

from lift_jax.evaluation import metrics
from lift_jax.evaluation.forward import Batch
from lift_jax.parallel.mesh import put_batch, replicated

Counter = Callable[[Batch], Mapping[str, ArrayLike]]  # see `evaluate`
# From a batch to arrays of all processes: position, mask, label, and the results (see `placed`)
Placed = Callable[[Batch], tuple[Array, ...]]


def placed(function: Callable[..., tuple[Array, ...]], mesh: Mesh) -> Callable[..., Any]:
    """Returns the jitted function of a batch and more to what `in_order` puts in order.

    The batch also holds `position` i32[b], the place of each row in the batch of all processes.
    """

    def work(batch: Batch, *more: PyTree) -> tuple[Array, ...]:
        found = function(batch, *more)
        return batch["position"], batch["mask"], batch["label"], *found

    return jax.jit(work, out_shardings=replicated(mesh))


def in_order(
    work: Placed, batches: Iterable[Mapping[str, np.ndarray]], mesh: Mesh
) -> Iterator[tuple[np.ndarray, ...]]:
    """Yields a tuple of arrays for each batch, with the images in the order of their split.

    The first array holds the index in the split of each image that can be read, ascending. The
    second holds their labels, and the others hold what the function of `work` returns (see
    `placed`). Every process gets the results of all images from `batches`, which hold its own share
    (`loader.eval_batches`).
    """
    process, processes, first = jax.process_index(), jax.process_count(), 0
    for rows in batches:
        # Each process reads every `processes`-th image, so gathered rows are unordered.
        share = len(rows["label"])
        position = np.arange(process, share * processes, processes, dtype=np.int32)
        found = work(put_batch(mesh, {**rows, "position": position}))
        position, real, *found = map(np.asarray, found)
        order = np.argsort(position)
        order = order[real[order]]
        yield first + position[order], *(each[order] for each in found)
        first += len(position)


def evaluate(
    batches: Iterable[Mapping[str, np.ndarray]], counters: Mapping[str, Counter], mesh: Mesh
) -> dict[str, metrics.Counts]:
    """Passes every batch to every counter, and returns the sums of their counts by name.

    Images are read once for all counters.

    Args:
        batches: batches of this process, the last one padded and masked (`loader.eval_batches`).
        counters: functions from a batch to its counts (`metrics.count`).
        mesh: the devices.
    """
    totals: dict[str, metrics.Counts] = {}
    for rows in batches:
        batch = put_batch(mesh, rows)
        counts = {name: counter(batch) for name, counter in counters.items()}  # all run at once
        for name in counters:
            totals[name] = metrics.add(totals.get(name), counts[name])
    return totals
