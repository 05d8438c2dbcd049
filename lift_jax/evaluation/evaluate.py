"""Evaluation of classifiers on all batches of a split, over all processes."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
from jax.sharding import Mesh
from jaxtyping import ArrayLike

from lift_jax.evaluation import metrics
from lift_jax.evaluation.forward import Batch
from lift_jax.parallel.mesh import put_batch

Counter = Callable[[Batch], Mapping[str, ArrayLike]]


def evaluate(
    batches: Iterable[Mapping[str, np.ndarray]], counters: Mapping[str, Counter], mesh: Mesh
) -> dict[str, metrics.Counts]:
    """Passes every batch to every counter, and returns the sums of their counts by name.

    Images are read once for all counters.

    Args:
        batches: batches of this process, the last one padded and masked (`loader.eval_batches`).
        counters: results of `forward.make_count`, with the leaves bound.
        mesh: the devices.
    """
    totals: dict[str, metrics.Counts] = {}
    for rows in batches:
        batch = put_batch(mesh, rows)
        counts = {name: counter(batch) for name, counter in counters.items()}  # all run at once
        for name in counters:
            totals[name] = metrics.add(totals.get(name), counts[name])
    return totals
