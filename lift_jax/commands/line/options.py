"""Options that several commands have: a run, a config, and the file of a run's own tuners."""

import argparse

from lift_jax.errors import UserError
from lift_jax.settings.config_file import (
    ConfigFile,
    find,
    open_config,
    override,
    run_file,
    split_argument,
)


def add_config(parser: argparse.ArgumentParser) -> None:
    """Adds --config, for commands that take a config and its settings."""
    parser.add_argument(
        "--config",
        metavar="NAME_OR_FILE",
        help="shipped config (demo, folder, inat, ...) or config file, optionally with an argument "
        "after a colon: inat:method=lift,tuner=lora",
    )
    parser.set_defaults(takes_settings=True)
    parser.add_argument_group(
        "settings", "--config.KEY=VALUE changes a setting; `lift-jax settings` lists them all."
    )


def add_run(parser: argparse.ArgumentParser) -> None:
    """Adds --run, for commands that only read a run."""
    parser.add_argument(
        "--run", required=True, metavar="W", help="run folder, or owner/name of one on the hub"
    )


def add_tuner_file(parser: argparse.ArgumentParser) -> None:
    """Adds --config, for commands that read a run folder: its file may define tuners."""
    parser.add_argument(
        "--config", metavar="FILE.py", help="config file of the run, if it defines tuners"
    )


def chosen_config(flags: argparse.Namespace, usage: str) -> ConfigFile:
    """Returns the config that the flags choose, with its settings changed as they say.

    Raises UserError without one (`usage`), if its file is missing or cannot be run, and for
    settings that do not exist or do not fit.
    """
    if not flags.config:
        raise UserError(usage)
    chosen = open_config(flags.config)
    override(chosen.config, flags.assignments)
    return chosen


def define_tuners(file: str | None) -> None:
    """Runs the config file of a run for the tuners that it defines.

    Raises UserError if there is no such file, or running it fails.
    """
    if file:
        run_file(find(split_argument(file)[0]))
