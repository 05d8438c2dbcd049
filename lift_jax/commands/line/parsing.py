"""The parsing of the arguments of a command, with one line for each mistake, and its run."""

import argparse
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NoReturn

from lift_jax.commands.line.ending import errors_as_lines
from lift_jax.errors import fail, near, shown
from lift_jax.parallel import entry
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
