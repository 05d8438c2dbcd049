"""A note whether the running program is one of the package's commands.

A worker process imports the program's main module again. For a command this is known to run
nothing; for a user's own script it is not.
"""

_IS_COMMAND = False


def mark_as_command() -> None:
    """Notes that this program is one of the package's commands."""
    global _IS_COMMAND
    _IS_COMMAND = True


def is_command() -> bool:
    """Returns True if this program is one of the package's commands."""
    return _IS_COMMAND
