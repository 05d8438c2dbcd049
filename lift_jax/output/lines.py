"""Lines on standard output and standard error, as plain text."""

import sys
from typing import TextIO

from lift_jax.output.plain import printable


def say(line: str, end: str = "\n") -> None:
    """Prints a line on standard output."""
    _write(line + end, sys.stdout)


def say_error(line: str) -> None:
    """Prints a line on standard error."""
    _write(line + "\n", sys.stderr)


def _write(text: str, stream: TextIO) -> None:
    """Writes a text; characters that the stream cannot encode become escapes."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    plain = printable(text, kept="\n").encode(encoding, "backslashreplace")
    stream.write(plain.decode(encoding))
    stream.flush()
