"""Measures what a training step costs, how fast images are read, or describes this system.

  lift-jax bench --config=inat --classes=8142
  lift-jax bench --config=inat --aot --devices=256 --classes=8142 --images=437513
  lift-jax bench --config=inat --classes=8142 --against=plain
  lift-jax bench --config=demo --classes=10 --against=precision
  lift-jax bench --only=data --json=before.json
  lift-jax bench --only=data --compare=before.json
  lift-jax bench --system

It times the step on the devices here, with random weights and images: images per second, share of
the hardware's peak, memory. With --aot nothing is run: the step is compiled for simulated devices,
and what each would hold, compute and send is printed, so that a job does not fail after hours in a
queue. With --against=plain the step and the forward pass run in turn with those of the plain
formulas: the ratios of time and memory. With --against=precision each half precision is compared
with float32: error of the logits, memory and time. With --only=data it times the way from files to
views, and how long training waits for data. With --compare the times are divided, pair by pair, by
those that --json wrote another time.
"""

import argparse
import os
from typing import TYPE_CHECKING

from lift_jax.commands import shared
from lift_jax.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

USAGE = "Give a config: lift-jax bench --config=inat --classes=8142"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    shared.add_config(parser)
    parser.add_argument(
        "--only",
        choices=("step", "data"),
        default="step",
        help="what to time: step (default), data",
    )
    parser.add_argument("--classes", type=int, default=0, metavar="N", help="number of classes")
    parser.add_argument(
        "--images", type=int, default=0, metavar="N",
        help="with --aot: number of training images, for the time of an epoch",
    )  # fmt: skip
    parser.add_argument(
        "--aot", action="store_true", help="compile for simulated devices, without running"
    )
    parser.add_argument(
        "--devices", type=int, default=8, metavar="N", help="with --aot: number of devices (8)"
    )
    parser.add_argument(
        "--steps", type=int, default=20, metavar="N",
        help="number of timed steps, after two that are not timed (20)",
    )  # fmt: skip
    parser.add_argument("--json", metavar="FILE", help="also write the times to a file")
    parser.add_argument(
        "--compare", metavar="FILE", help="print the ratios to the times in such a file"
    )
    parser.add_argument(
        "--against", choices=("plain", "precision"),
        help="plain: compare with the plain formulas, whose backward pass is autodiff's; "
        "precision: compare half precisions with float32",
    )  # fmt: skip
    parser.add_argument(
        "--system", action="store_true", help="print versions and devices, for a bug report"
    )


def run(flags: argparse.Namespace) -> None:
    """Runs the command."""
    for name, least in (("steps", 1), ("devices", 1), ("images", 0)):
        if (number := getattr(flags, name)) < least:
            raise UserError(f"--{name} is {number}; it must be at least {least}.")
    if flags.aot and flags.against:
        raise UserError("--aot runs nothing, and --against compares what runs: give one of them.")
    if flags.only == "data" and (flags.aot or flags.against):
        raise UserError("--only=data times no step: leave --aot and --against out.")
    if flags.aot:  # before anything asks for devices
        os.environ["JAX_PLATFORMS"] = "cpu"
        os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={flags.devices}"

    import jax
    from absl import logging

    from lift_jax.output.terminal import Terminal

    if flags.aot:
        jax.config.update("jax_platforms", "cpu")
    logging.set_verbosity(logging.WARNING)
    console = Terminal(soft_wrap=True)
    if flags.system:
        from lift_jax.benchmarks.system import describe_system

        console.print(describe_system())
    elif flags.aot or flags.against:
        if flags.json or flags.compare:
            other = "--aot takes none" if flags.aot else "--against compares by itself"
            raise UserError(f"--json and --compare are for times, and {other}.")
        run_step(flags, console, {})
    else:
        run_timed(flags, console)


def run_timed(flags: argparse.Namespace, console: "Console") -> None:
    """Times the step or the reading; writes and compares the times where that is asked.

    Raises UserError before the work for a file that cannot be compared with or written.
    """
    from lift_jax.benchmarks import data, results, waiting
    from lift_jax.storage.disk import make_place
    from lift_jax.storage.names import expand_user

    source = expand_user(flags.compare) if flags.compare else None
    then = results.read(source) if source else None
    to = make_place(expand_user(flags.json), "--json") if flags.json else None
    seconds: results.Seconds = {}
    if flags.only == "data":
        data.measure(console, seconds)
        about = results.described("data")
        waiting.measure(console)
    else:
        about = results.described("step", **run_step(flags, console, seconds))
    now = results.Result(about, seconds)
    if to:
        results.write(to, now)
        console.print(f"Written: {to}")
    if source and then:
        results.compare(now, then, source, console)


def run_step(
    flags: argparse.Namespace, console: "Console", seconds: dict[str, list[float]]
) -> dict[str, object]:
    """Times or compiles the training step, fills `seconds` and returns what was timed.

    Raises UserError without a config or classes.
    """
    from lift_jax.benchmarks import against, ahead_of_time, precisions, step
    from lift_jax.settings.parse import parse
    from lift_jax.training.step import exact_products

    settings = parse(shared.chosen_config(flags, USAGE).config)
    if flags.classes < 2:
        raise UserError("Give the number of classes: --classes=8142.")
    vision = step.vision_sizes(settings.model)
    with exact_products():  # the program of training
        if flags.aot:
            ahead_of_time.estimate(settings, vision, flags.classes, flags.images, console)
        elif flags.against:
            compare = against if flags.against == "plain" else precisions
            compare.measure(settings, vision, flags.classes, flags.steps, console)
        else:
            step.measure(settings, vision, flags.classes, flags.steps, console, seconds)
    s = step.with_remat(settings, vision)
    return {
        "backbone": s.model.backbone, "classes": flags.classes, "batch": s.train.batch,
        "tuner": s.tuner.name, "precision": s.model.precision, "remat": s.train.remat,
    }  # fmt: skip
