"""Averages the tuned weights of several runs: an adapter soup (Wortsman et al., ICML 2022).

  lift-jax soup runs/seed_0 runs/seed_1 runs/seed_2 --workdir=runs/soup

The runs must be finished, and differ only in seed and train.lr. The new run folder holds their
mean and its test results. soup.csv in it lists the results of every run and of the soup.
"""

import argparse

from lift_jax.commands.line import libraries, options
from lift_jax.output.lines import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument("runs", nargs="+", metavar="W", help="folder of a finished run")
    parser.add_argument("--workdir", required=True, metavar="W", help="run folder of the soup")
    options.add_tuner_file(parser)


def run(flags: argparse.Namespace) -> None:
    """Runs the command."""
    from lift_jax.reports import report
    from lift_jax.runs.weights.soup import soup

    libraries.quiet_libraries()
    options.define_tuners(flags.config)
    soup(flags.runs, flags.workdir)
    say(f"Report: {report.write(flags.workdir)}")
