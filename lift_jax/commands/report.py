"""Writes the report of a run again, or compares several runs.

  lift-jax report runs/photos
  lift-jax report runs/a runs/b --out=comparison

Every run folder gets a report.html that needs no other file, and its figures as report_*.png. For
several runs there is also a comparison, report_compare.html. With --out, the report of a single run
is written to another folder, for example because you cannot write to the run folder.
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
    from lift_jax.runs import finished_run
    from lift_jax.runs.remote import local_copy

    with ExitStack() as stack:
        console = Terminal(stderr=True)
        workdirs = [stack.enter_context(local_copy(w, console)) for w in flags.workdirs]
        if len(workdirs) == 1:
            say(str(write(workdirs[0], flags.out or "")))
            return
        for workdir in workdirs:
            finished_run.load(workdir)  # raises before anything is written
        for workdir in workdirs:
            say(str(write(workdir)))
        say(str(compare(workdirs, flags.out or workdirs[0])))
