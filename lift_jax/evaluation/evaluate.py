"""A split to numbers: each classifier's counts over all batches of all processes."""

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
    """Feeds every batch to every counter and returns the sums by the counters' names.

    `batches` are this process's rows, the last padded and masked (`loader.eval_batches`); a counter
    is what `steps.make_count` returns, its weights filled in. Images are read once for all of them.
    """
    totals: dict[str, metrics.Counts] = {}
    for rows in batches:
        batch = put_batch(mesh, rows)
        counts = {name: counter(batch) for name, counter in counters.items()}  # all under way
        for name in counters:
            totals[name] = metrics.add(totals.get(name), counts[name])
    return totals
