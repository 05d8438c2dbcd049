"""Looks at a data set before training, or prepares it for fast reading.

  lift-jax data --config=folder --config.data.root=photos --workdir=runs/photos_data
  lift-jax data --prepare --config=inat --config.data.root=INAT

Prints splits, classes, image sizes and what is wrong with them, and writes to the folder:
classes.csv and classes.png (images of each class), findings.csv (images that cannot be read or
occur twice), kinds.csv (images that are not ordinary RGB: turned, CMYK, 16-bit, transparent, ...)
and views.png (what the model is shown while training and testing).

With --prepare it writes the training split as small JPEGs in a few large files instead, which
training then reads in place of the images. Run it again to continue after a kill.
"""

import argparse

from lift_jax.commands import shared
from lift_jax.errors import UserError

USAGE = "Give a config: lift-jax data --config=folder --config.data.root=photos"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    shared.add_config(parser)
    parser.add_argument(
        "--workdir", default="runs/data", metavar="W", help="folder to write to (runs/data)"
    )
    parser.add_argument(
        "--prepare", action="store_true", help="write the training split as small JPEGs, and stop"
    )
    parser.add_argument(
        "--prepare_size", type=int, default=0, metavar="PIXELS",
        help="short side of the small JPEGs (default: 8/7 of the resolution)",
    )  # fmt: skip
    parser.add_argument(
        "--read", action=argparse.BooleanOptionalAction, default=True,
        help="read every image (default); --no-read looks at the lists alone",
    )  # fmt: skip
    parser.add_argument("--noread", dest="read", action="store_false", help=argparse.SUPPRESS)


def run(flags: argparse.Namespace) -> None:
    """Runs the command."""
    chosen = shared.chosen_config(flags, USAGE)

    from dataclasses import replace

    from lift_jax.output.terminal import Terminal
    from lift_jax.reports.data_page import prepare_split, show_data
    from lift_jax.runs.folder import open_workdir, writing
    from lift_jax.settings.parse import parse

    settings = parse(chosen.config)
    if flags.prepare_size and not flags.prepare:
        raise UserError("--prepare_size is for --prepare, which writes small JPEGs.")
    if flags.prepare:
        prepare_split(settings, flags.prepare_size, Terminal())
        return
    as_they_are = replace(settings, data=replace(settings.data, prepared="none"))
    workdir = open_workdir(flags.workdir, settings.data)
    with writing(workdir):
        show_data(as_they_are, workdir, flags.read, Terminal())
