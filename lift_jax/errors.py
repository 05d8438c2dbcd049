"""The one exception that means "the user can mend this", and the messages for mistyped names."""

from collections.abc import Iterable

from lift_jax.output.lines import say_error

LONGEST_NAME = 500  # characters of what may be a mistyped name


class UserError(Exception):
    """A mistake in the input: commands print its message alone, without a stack trace.

    The message names the file or key at fault, what was expected, what was found and what to do.
    """


def near(name: str, known: Iterable[str]) -> list[str]:
    """Returns the known names that `name` was most likely meant to be, best first."""
    if len(name) > LONGEST_NAME:
        return []  # no name at all, and the comparison would take long
    import difflib  # imported here because every command imports this module

    return difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)


def unknown(kind: str, name: str, known: Iterable[str], listed: str = "") -> UserError:
    """Returns the error for a name that is not in a table, with the near misses and the table.

    A table that is too long for a message is named by `listed`, the command that prints it.
    """
    known = sorted(known)
    meant = near(name, known)
    guess = f" Did you mean {' or '.join(repr(m) for m in meant)}?" if meant else ""
    rest = f"`{listed}` lists all." if listed else f"Known: {', '.join(known)}."
    return UserError(f"Unknown {kind} {shown(name)}.{guess} {rest}")


def shown(value: object) -> str:
    """Returns a value as messages show it: in one line, cut after 80 characters."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, or deep nesting
        return f"{type(value).__name__} too long to show"
    return text if len(text) <= 80 else f"{text[:77]}..."


class DiskError(UserError):
    """An error in writing: the disk is full or over a quota, or the folder is read-only."""


def fail(message: object) -> int:
    """Prints the message of a user's mistake; returns the exit status of commands."""
    say_error(f"error: {message}")
    return 2
