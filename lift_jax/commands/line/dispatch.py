"""Finds the command that a user typed, and runs it."""

import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from lift_jax.commands import COMMANDS
from lift_jax.commands.line import parsing
from lift_jax.commands.line.ending import errors_as_lines
from lift_jax.errors import fail, near
from lift_jax.output.lines import say

HELP, VERSION = "--help", "--version"
USAGE = """usage: lift-jax COMMAND [options]

Long-tailed image recognition by lightweight fine-tuning (LIFT, LIFT+).

commands:
{commands}

examples:
  lift-jax train --config=demo --workdir=runs/demo
  lift-jax predict --run=runs/demo new_photos
  lift-jax train --help
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs `lift-jax COMMAND ...`. Raises SystemExit with the command's exit status."""
    with errors_as_lines():
        arguments = list(sys.argv[1:] if arguments is None else arguments)
        if arguments[0:1] == ["help"] and len(arguments) > 1:
            arguments = [arguments[1], "--help"]
        if not arguments or arguments[0] in ("-h", HELP, "help"):
            listed = "\n".join(f"  {name:10}{text}" for name, text in COMMANDS.items())
            say(USAGE.format(commands=listed), end="")
            raise SystemExit(0)
        if arguments[0] == VERSION:
            from lift_jax import __version__

            say(__version__)
            raise SystemExit(0)
        name, *rest = arguments
        if name.startswith("-"):
            raise SystemExit(fail(no_option(name.partition("=")[0])))
        if name not in COMMANDS:
            meant = near(name, COMMANDS)
            guess = f" Did you mean {meant[0]!r}?" if meant else ""
            known = ", ".join(COMMANDS)
            raise SystemExit(fail(f"Unknown command {name!r}.{guess} Known: {known}."))
        parsing.run_command(module_of(name), rest)


def no_option(name: str) -> str:
    """Returns the message for an option before the command that does not exist there."""
    meant = near(name, (HELP, VERSION))
    guess = f" Did you mean {meant[0]}?" if meant else " The command comes first."
    return f"unknown option {name}.{guess} (`lift-jax --help` lists all.)"


def module_of(name: str) -> ModuleType:
    """Returns the module of a command."""
    return importlib.import_module(
        "lift_jax.main" if name == "train" else f"lift_jax.commands.{name}"
    )


def redirect(module: str, original: Sequence[str]) -> None:
    """Answers `python -m lift_jax.MODULE` for a module that is not meant to be run.

    A command's name (`lift_jax.predict`) runs that command. For any other module a line names the
    command to use, and SystemExit is raised with the status of a mistake.

    Args:
        module: the name after -m.
        original: `sys.orig_argv`.
    """
    name = module.removeprefix("lift_jax.")
    if name in COMMANDS and name != "train":
        place = list(original).index("-m")
        before, after = list(original[1:place]), list(original[place + 2 :])
        os.execv(sys.executable, [sys.executable, *before, "-m", "lift_jax", name, *after])
    last = name.rpartition(".")[2]
    meant = [last] if last in COMMANDS else near(last, COMMANDS)
    if name.startswith("training"):
        meant = ["train"]
    hint = f"python -m lift_jax {meant[0] if meant else 'COMMAND'}"
    raise SystemExit(
        fail(f"{module} is not a command. Use: {hint}. Commands: {', '.join(COMMANDS)}.")
    )
