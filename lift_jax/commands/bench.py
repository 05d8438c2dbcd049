"""Times a training step or the reading of images, or describes this system.

  lift-jax bench --config=inat --classes=8142
  lift-jax bench --config=inat --aot --devices=256 --classes=8142 --images=437513
  lift-jax bench --config=inat --classes=8142 --against=plain
  lift-jax bench --config=demo --classes=10 --against=precision
  lift-jax bench --only=data --json=before.json
  lift-jax bench --only=data --compare=before.json
  lift-jax bench --system

By default it times the step on the devices of this machine, with random weights and images, and
prints images per second, share of the hardware's peak, and memory.

  --aot                  compiles the step for simulated devices and runs nothing. It prints the
                         memory, FLOPs and traffic of each device, so that a job does not fail after
                         hours in a queue.
  --against=plain        compares time and memory with those of the plain formulas.
  --against=precision    compares half precisions with float32: error of the logits, memory, time.
  --only=data            times decoding and cropping, and how long training waits for data.
  --json, --compare      write the times to a file, and print the ratios to such a file.
"""

import argparse
import os
from typing import TYPE_CHECKING

from lift_jax.commands.line import options
from lift_jax.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

USAGE = "Give a config: lift-jax bench --config=inat --classes=8142"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    options.add_config(parser)
    parser.add_argument(
        "--only",
        choices=("step", "data"),
        default="step",
        help="what to time: step (default) or data",
    )
    parser.add_argument("--classes", type=int, default=0, metavar="N", help="number of classes")
    parser.add_argument(
        "--images", type=int, metavar="N",
        help="with --aot: number of training images, for the time of an epoch",
    )  # fmt: skip
    parser.add_argument(
        "--aot", action="store_true", help="compile for simulated devices without running"
    )
    parser.add_argument(
        "--devices", type=int, metavar="N", help="with --aot: number of devices (8)"
    )
    parser.add_argument(
        "--steps", type=int, default=20, metavar="N",
        help="number of timed steps, after two that are not timed (20)",
    )  # fmt: skip
    parser.add_argument("--json", metavar="FILE", help="also write the times to a file")
    parser.add_argument(
        "--compare",
        metavar="FILE",
        help="print the ratios to the times in a file that --json wrote",
    )
    parser.add_argument(
        "--against", choices=("plain", "precision"),
        help="plain: compare with the plain formulas, differentiated automatically; "
        "precision: compare half precisions with float32",
    )  # fmt: skip
    parser.add_argument(
        "--system", action="store_true", help="print versions and devices, for a bug report"
    )


def run(flags: argparse.Namespace) -> None:
    """Runs the command."""
    check(flags)
    if flags.aot:  # before anything asks for devices
        os.environ["JAX_PLATFORMS"] = "cpu"
        os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={flags.devices or 8}"

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
        run_step(flags, console, {})
    else:
        run_timed(flags, console)


def check(flags: argparse.Namespace) -> None:
    """Raises UserError for options that do not go together, and for numbers that are too small."""
    if not flags.aot and (flags.devices is not None or flags.images is not None):
        raise UserError("--devices and --images are for --aot, which compiles without running.")
    for name, least in (("steps", 1), ("devices", 1), ("images", 0)):
        number = getattr(flags, name)
        if number is not None and number < least:
            raise UserError(f"--{name} is {number}; it must be at least {least}.")
    if flags.aot and flags.against:
        raise UserError("--aot runs nothing, and --against compares what runs: give one of them.")
    if flags.only == "data" and (flags.aot or flags.against):
        raise UserError("--only=data times no step: leave --aot and --against out.")
    if (flags.aot or flags.against) and (flags.json or flags.compare):
        other = "--aot takes none" if flags.aot else "--against compares by itself"
        raise UserError(f"--json and --compare are for times, and {other}.")


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

    settings = parse(options.chosen_config(flags, USAGE).config)
    if flags.classes < 2:
        raise UserError("Give the number of classes: --classes=8142.")
    vision = step.vision_sizes(settings.model)
    with exact_products():  # the program of training
        if flags.aot:
            ahead_of_time.estimate(settings, vision, flags.classes, flags.images or 0, console)
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
