"""Helpers of all commands: one way of parsing, and one line for each mistake of a user."""

import argparse
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NoReturn

from lift_jax.commands.line.ending import errors_as_lines
from lift_jax.errors import UserError, fail, near, shown
from lift_jax.parallel import entry
from lift_jax.settings.config_file import (
    ConfigFile,
    find,
    open_config,
    override,
    run_file,
    split_argument,
)
from lift_jax.settings.schema import all_entries
from lift_jax.storage import cache

PREFIX, NEGATED = "--config.", "--noconfig."


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line that names the nearest option."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.register("type", int, whole_number)
        self.register("type", float, number)

    def error(self, message: str) -> NoReturn:
        """Prints a mistake in the arguments and exits with status 2."""
        raise SystemExit(fail(f"{message} (`lift-jax {self.prog.split()[-1]} --help` lists all.)"))

    def options(self) -> list[str]:
        """Returns the names of all options."""
        return [name for action in self._actions for name in action.option_strings]

    def check_given(self, arguments: Sequence[str]) -> None:
        """Exits with a line about an argument or an option that is empty.

        A variable of a script that is not set gives one, and an empty path is the folder here.
        """
        end = [*arguments, "--"].index("--")
        options = [a for a in self._actions if a.nargs != argparse.OPTIONAL]
        empty = {f"{name}=" for action in options for name in action.option_strings}
        for i, word in enumerate(arguments):
            if not word or (i < end and word in empty):
                self.error(f"{word or 'an argument'} is empty; leave it out, or give it a value.")

    def with_values(self, arguments: Sequence[str]) -> list[str]:
        """Returns arguments in which an option that may stand alone never takes the next word.

        Such an option takes its value after "=" alone: `--unknown a.jpg` names an image.
        """
        alone = {
            name: f"{name}={action.const}"
            for action in self._actions
            for name in action.option_strings
            if action.nargs == argparse.OPTIONAL
        }
        end = [*arguments, "--"].index("--")
        return [alone.get(word, word) for word in arguments[:end]] + [*arguments[end:]]


def whole_number(text: str) -> int:
    """Returns the whole number that an option is given. Raises ArgumentTypeError for others."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a whole number") from None


def number(text: str) -> float:
    """Returns the number that an option is given. Raises ArgumentTypeError for others."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a number") from None


def run_command(module: ModuleType, arguments: Sequence[str] | None = None) -> None:
    """Parses the arguments of a command and runs it.

    The command's module has a docstring, which is its help, and the functions `add_arguments` and
    `run`. Raises SystemExit: 0 after --help, 2 after a mistake.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    name = module.__name__.rpartition(".")[2]
    parser = Parser(
        prog=f"lift-jax {'train' if name in ('main', '__main__') else name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    assignments: list[tuple[str, str | None]] = []
    if parser.get_default("takes_settings"):
        arguments, assignments = take_assignments(arguments)
    parser.check_given(arguments)
    flags, rest = parser.parse_known_args(parser.with_values(arguments))
    if rest:
        reject(rest, parser)
    flags.assignments = assignments
    entry.mark_as_command()
    with errors_as_lines():
        cache.remove_leftovers()
        module.run(flags)


def reject(rest: Sequence[str], parser: Parser) -> NoReturn:
    """Exits with a line about arguments that the command does not have."""
    unknown = [argument for argument in rest if argument.startswith("-")]
    if not unknown:
        parser.error(f"unexpected arguments: {' '.join(rest)}")
    name = unknown[0].partition("=")[0]
    meant = near(name, parser.options())
    parser.error(f"unknown option {name}." + (f" Did you mean {meant[0]}?" if meant else ""))


def take_assignments(
    arguments: Sequence[str],
) -> tuple[list[str], list[tuple[str, str | None]]]:
    """Splits arguments into those of the command and --config.KEY=VALUE as (key, value).

    `--config.KEY VALUE` works as well; `--config.KEY` alone stands for true, `--noconfig.KEY` for
    false.
    """
    known, rest, found = all_entries(), [], []
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        if argument.startswith(NEGATED):
            found.append((argument.removeprefix(NEGATED), "false"))
        elif argument.startswith(PREFIX):
            key, equals, value = argument.removeprefix(PREFIX).partition("=")
            alone = key in known and known[key].type is bool
            if not equals and not alone and waiting and not waiting[0].startswith("--"):
                found.append((key, waiting.pop(0)))
            else:
                found.append((key, value if equals else None))
        else:
            rest.append(argument)
    return rest, found


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


def use_compile_cache() -> None:
    """Keeps compiled programs under the user's cache folder: a second run starts at once.

    If no such folder can be written, nothing is kept.
    """
    import warnings

    import jax

    from lift_jax.storage.cache import cache_folder
    from lift_jax.storage.disk import make_folder

    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        try:
            folder = make_folder(cache_folder() / "xla", "XDG_CACHE_HOME")
        except UserError:
            return
        jax.config.update("jax_compilation_cache_dir", str(folder))
        # also what compiles fast: a run has dozens of such programs
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def quiet_libraries() -> None:
    """Silences orbax, which warns of parts that it does not need; its real errors are exceptions.

    Silences asyncio as well. When orbax gives up a checkpoint at the first error, asyncio would
    print the others.
    """
    import logging

    from absl import logging as absl_logging

    absl_logging.set_verbosity(absl_logging.FATAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
