"""Precisions (`models.precision`) against float32: error of the logits, memory and time of each."""

from dataclasses import replace

import jax
import numpy as np
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from lift_jax.benchmarks import against, step
from lift_jax.models.backbone import Vision
from lift_jax.models.precision import FLOAT32, Precision
from lift_jax.parallel.cost import device_bytes
from lift_jax.settings.schema import Settings

PRECISIONS = {
    "float32": FLOAT32,
    "float16": Precision.of("float16", "float32"),
    "bfloat16": Precision.of("bfloat16", "float32"),
    "bfloat16 (same)": Precision.of("bfloat16", "bfloat16"),
}


def measure(settings: Settings, vision: Vision, classes: int, count: int, console: Console) -> None:
    """Prints what each precision costs on the devices here, with random weights and images.

    Args:
        settings: of the run whose step it is.
        vision: sizes of the image tower.
        classes: number of classes.
        count: number of timed runs of each training step, in turn with float32's.
        console: where to print.
    """
    table = Table(title=f"{settings.model.backbone}, batch {settings.train.batch}")
    headings = ("logits off by", "at most", "same answer", "weights", "scratch", "ms", "ratio")
    for heading in ("model.precision", *headings):
        table.add_column(heading, justify="right" if heading in headings else "left")
    leaves = step.random_leaves(settings, vision, classes)
    exact, program = np.empty(0), None
    for name, precision in PRECISIONS.items():
        made = step.make_problem(settings, vision, classes, precision)
        state, batch = step.filled((made.state, made.batch))
        tuned = {path: leaves[path] for path in state.tuned}
        state = jax.device_put(replace(state, tuned=tuned), step.shardings(made.state))
        frozen = {path: leaves[path].astype(leaf.dtype) for path, leaf in made.frozen.items()}
        frozen = jax.device_put(frozen, step.shardings(made.frozen))
        forward = against.compile_forward(made, state, frozen, batch)
        logits = np.asarray(forward.run(), np.float64)
        own = against.compile_step(made, state, frozen, batch)
        exact, program = (logits, own) if program is None else (exact, program)
        ms, _, ratio = against.in_turn([own, program], count)
        error = np.abs(logits - exact)
        same = (logits.argmax(1) == exact.argmax(1)).mean()
        table.add_row(
            name, f"{np.sqrt(np.square(error).mean()):.1e}", f"{error.max():.1e}", f"{same:.1%}",
            decimal(device_bytes(made.frozen)), decimal(own.scratch), f"{ms:.1f}",
            f"{ratio:.3f}",
        )  # fmt: skip
    console.print(table)
    if jax.default_backend() == "cpu":
        console.print("CPUs compute half precision in float32: time and scratch say nothing here.")
