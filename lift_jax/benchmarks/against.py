"""Lean backward passes (`models.blocks.backward`) against the plain formulas, in one process."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import jax
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from lift_jax.benchmarks import step
from lift_jax.benchmarks.step import Problem
from lift_jax.evaluation.forward import make_predict
from lift_jax.models.backbone import Vision
from lift_jax.models.blocks import backward
from lift_jax.parallel.cost import scratch_bytes
from lift_jax.settings.schema import Settings
from lift_jax.training.placement import chosen_precision


@dataclass(frozen=True)
class Program:
    """A compiled program that runs once a call, and the scratch memory of one device in bytes."""

    run: Callable[[], object]
    scratch: int


def measure(settings: Settings, vision: Vision, classes: int, count: int, console: Console) -> None:
    """Runs both forms of a training step and of a forward pass in turn, and prints their ratios.

    Args:
        settings: of the run whose step it is.
        vision: sizes of the image tower.
        classes: number of classes.
        count: number of timed runs of each program.
        console: where to print.
    """
    made = step.make_problem(settings, vision, classes, chosen_precision(settings.model))
    arrays = step.filled((made.state, made.frozen, made.batch))
    table = Table(title=f"{settings.model.backbone}, batch {settings.train.batch}")
    for heading in ("", "lean ms", "plain ms", "ratio", "lean scratch", "plain scratch", "ratio"):
        table.add_column(heading, justify="right")
    for name, compile_program in {
        "training step": compile_step,
        "forward": compile_forward,
    }.items():
        programs = []
        for lean in (True, False):
            with backward.lean(lean):
                programs.append(compile_program(made, *arrays))
        lean_ms, plain_ms, ratio = in_turn(programs, count)
        scratch = [program.scratch for program in programs]
        table.add_row(
            name, f"{lean_ms:.1f}", f"{plain_ms:.1f}", f"{ratio:.3f}",
            *map(decimal, scratch), f"{scratch[0] / scratch[1]:.3f}",
        )  # fmt: skip
    console.print(table)


def compile_step(made: Problem, state, frozen, batch) -> Program:
    """Returns the training step, which starts from the same state each time."""
    compiled = made.step.lower(state, frozen, batch).compile()
    copy = jax.jit(lambda leaves: jax.tree.map(lambda leaf: leaf + 0, leaves))

    def run() -> object:  # the step donates its state
        return compiled(copy(state), frozen, batch)

    return Program(run, scratch_bytes(compiled))


def compile_forward(made: Problem, state, frozen, batch) -> Program:
    """Returns the forward pass from a batch to logits."""
    leaves, predict = state.tuned | frozen, make_predict(made.graph, made.vision)
    compiled = jax.jit(predict).lower(leaves, batch).compile()
    return Program(lambda: compiled(leaves, batch), scratch_bytes(compiled))


def in_turn(programs: list[Program], count: int) -> tuple[float, float, float]:
    """Returns the median milliseconds of two programs, and the median ratio of pairs of runs."""
    times: list[list[float]] = [[], []]
    for _ in range(count + 1):
        for program, found in zip(programs, times, strict=True):
            begin = time.monotonic()
            jax.block_until_ready(program.run())
            found.append(1000 * (time.monotonic() - begin))
    first, second = (found[1:] for found in times)  # the first round also loads and allocates
    ratio = statistics.median(a / b for a, b in zip(first, second, strict=True))
    return statistics.median(first), statistics.median(second), ratio
