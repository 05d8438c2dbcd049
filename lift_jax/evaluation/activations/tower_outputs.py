"""The outputs of an image tower for all images of a split, in their order."""

import time
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from lift_jax.data import loader
from lift_jax.evaluation.activations.reading import Reading
from lift_jax.evaluation.forward import Batch, pixels
from lift_jax.evaluation.stream import in_order, placed
from lift_jax.models import tree
from lift_jax.models.backbone import Tower


def tower_outputs(
    function: Callable[[Tower, Array], Float[Array, "b *row"]],
    visual: Tower,
    reading: Reading,
    description: str,
    *,
    mesh: Mesh,
    batch: int,
    console: Console,
) -> Iterator[tuple[Float[np.ndarray, "m *row"], Int[np.ndarray, "m"]]]:
    """Yields for each batch the outputs for the images that can be read, and their labels.

    Every process gets the outputs of all images.

    Args:
        function: takes the tower and the views u8[b r r 3] or activations of a batch, and returns a
            row for each.
        visual: the image tower.
        reading: images and their view, or activations.
        description: of the progress bar, which also shows images per second.
        mesh: the devices.
        batch: batch size over all devices.
        console: for the progress bar.
    """
    graph, arrays = tree.split(visual)

    def run(batch: Batch, arrays: tree.Tree) -> tuple[Array, ...]:
        tower = tree.merge(graph, arrays)
        return (function(tower, pixels(batch, tower.config)),)

    batches = loader.eval_batches(
        reading.split, reading.view, batch=batch, process=jax.process_index(),
        processes=jax.process_count(), workers=reading.workers,
    )  # fmt: skip
    columns = TextColumn(description), BarColumn(), MofNCompleteColumn()
    rate = TextColumn("{task.fields[rate]:,.0f} images/s")
    with Progress(
        *columns, rate, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task, begin, done = (
            bar.add_task("", total=len(reading.split), rate=0.0),
            time.monotonic(),
            0,
        )
        work = placed(run, mesh)
        for order, labels, rows in in_order(lambda batch: work(batch, arrays), batches, mesh):
            yield rows, labels
            done += len(order)
            bar.update(task, completed=done, rate=done / (time.monotonic() - begin))
