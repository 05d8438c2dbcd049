"""Writes the report of a run again, or compares several runs.

  lift-jax report runs/photos
  lift-jax report runs/a runs/b --out=comparison

One run folder gets a report.html that needs no other file, and its figures as report_*.png. Several
run folders are compared in report_compare.html in the first of them; their own reports stay as they
are. With --out the report or the comparison is written to another folder, and nothing is written to
the run folders.
"""

import argparse
from contextlib import ExitStack

from lift_jax.output.lines import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument("workdirs", nargs="+", metavar="W", help="run folder")
    parser.add_argument(
        "--out", metavar="DIR",
        help="folder of the report, or of the comparison (default: the first run folder)",
    )  # fmt: skip


def run(flags: argparse.Namespace) -> None:
    """Runs the command."""
    from lift_jax.output.terminal import Terminal
    from lift_jax.reports.comparison import compare
    from lift_jax.reports.report import write
    from lift_jax.runs.remote import local_copy

    console = Terminal(stderr=True)
    with ExitStack() as stack:
        workdirs = [
            stack.enter_context(local_copy(workdir, console, writes=i == 0 and not flags.out))
            for i, workdir in enumerate(flags.workdirs)
        ]
        if len(workdirs) == 1:
            say(str(write(workdirs[0], flags.out or "", flags.workdirs[0])))
        else:
            say(str(compare(workdirs, flags.out or workdirs[0], flags.workdirs)))
