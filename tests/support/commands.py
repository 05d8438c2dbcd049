"""Commands for tests, run in this process."""

from lift_jax.commands.line import dispatch


def run_command(name: str, *arguments: object) -> None:
    """Runs `lift-jax NAME ARGUMENTS...`. Raises SystemExit as the command does."""
    dispatch.main([name, *map(str, arguments)])
