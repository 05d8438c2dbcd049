"""Checks a data set before training, or prepares it for fast reading.

  lift-jax data --config=folder --config.data.root=photos --workdir=runs/photos_data
  lift-jax data --prepare --config=inat --config.data.root=INAT

It prints splits, classes, image sizes and what is wrong with them, and writes these files:

  classes.csv, classes.png    number of images of each class
  findings.csv                what is wrong: images that cannot be read or occur twice, ...
  kinds.csv                   images of unusual kinds: rotated, CMYK, 16-bit, transparent, ...
  views.png                   what the model sees in training and testing

With --prepare it writes the training images as small JPEGs into a few large files instead. Training
then reads these. If it is interrupted, run it again: it continues.
"""

import argparse

from lift_jax.commands.line import options
from lift_jax.errors import UserError

USAGE = "Give a config: lift-jax data --config=folder --config.data.root=photos"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    options.add_config(parser)
    parser.add_argument(
        "--workdir", default="runs/data", metavar="W", help="folder to write to (runs/data)"
    )
    parser.add_argument(
        "--prepare", action="store_true", help="only write the training images as small JPEGs"
    )
    parser.add_argument(
        "--prepare_size", type=int, default=0, metavar="PIXELS",
        help="short side of the small JPEGs (default: 8/7 of the resolution)",
    )  # fmt: skip
    parser.add_argument(
        "--read", action=argparse.BooleanOptionalAction, default=True,
        help="read every image (default); --no-read checks only the lists of images",
    )  # fmt: skip


def run(flags: argparse.Namespace) -> None:
    """Runs the command."""
    if flags.prepare_size < 0:
        raise UserError(f"--prepare_size is {flags.prepare_size}; expected a number of pixels.")
    chosen = options.chosen_config(flags, USAGE)

    from dataclasses import replace

    from lift_jax.data.prepared import of_settings, prepare
    from lift_jax.output.terminal import Terminal
    from lift_jax.reports.data_set.crops import preview_resolution
    from lift_jax.reports.data_set.look import show_data
    from lift_jax.runs.folder import open_workdir, writing
    from lift_jax.settings.parse import parse

    settings = parse(chosen.config)
    if flags.prepare_size and not flags.prepare:
        raise UserError("--prepare_size is for --prepare, which writes small JPEGs.")
    if flags.prepare:
        console = Terminal()
        size = flags.prepare_size or prepare.default_size(
            preview_resolution(settings.model, console)
        )
        of_settings.prepare_split(settings.data, settings.seed, size, console)
        return
    as_they_are = replace(settings, data=replace(settings.data, prepared="none"))
    workdir = open_workdir(flags.workdir, settings.data)
    with writing(workdir):
        show_data(as_they_are, workdir, flags.read, Terminal())
