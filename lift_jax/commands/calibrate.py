"""Calibrates a run on its validation split: probabilities, unknown images and prediction sets.

  lift-jax calibrate --run=runs/photos
  lift-jax calibrate --run=runs/photos --keep=0.9 --coverage=0.95

It writes calibration.json into the run folder. The file holds the temperature that calibrates the
probabilities of `lift-jax predict`, the score below which `predict --unknown` answers "unknown",
and the thresholds of `predict --sets`. Training does this at its end. The run needs a validation
split: data.val_share, or the data set's own. The test split is not used.
"""

import argparse

from lift_jax.commands.line import libraries, options
from lift_jax.output.lines import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument("--run", required=True, metavar="W", help="run folder; may be an address")
    parser.add_argument(
        "--keep", type=float, default=0.95, metavar="SHARE",
        help="share of the correct answers that `predict --unknown` keeps (0.95)",
    )  # fmt: skip
    parser.add_argument(
        "--coverage", type=float, default=0.9, metavar="SHARE",
        help="share of images whose set (`predict --sets`) contains the true class (0.9)",
    )  # fmt: skip
    options.add_tuner_file(parser)


def run(flags: argparse.Namespace) -> None:
    """Runs the command."""
    from pathlib import Path

    from lift_jax.output.terminal import Terminal
    from lift_jax.runs.answers.calibrate import calibrate
    from lift_jax.runs.remote import local_copy

    libraries.quiet_libraries()
    libraries.use_compile_cache()
    options.define_tuners(flags.config)
    console = Terminal()
    with local_copy(flags.run, console) as run:
        path = calibrate(Path(run), flags.keep, flags.coverage, console)
    say(f"Written: {path}")
