"""Lines on standard output and standard error, as plain text."""

import sys
from typing import TextIO

from lift_jax.output.plain import printable


def say(line: str, end: str = "\n") -> None:
    """Prints a line on standard output."""
    _write(line + end, sys.stdout)


def say_error(line: str) -> None:
    """Prints a message on standard error.

    Its later lines are indented, so that a name with line breaks cannot begin a message of its own.
    """
    first, *rest = line.split("\n")
    indented = [each if not each or each[0] == " " else f"  {each}" for each in rest]
    _write("\n".join([first, *indented, ""]), sys.stderr)


def _write(text: str, stream: TextIO) -> None:
    """Writes a text; characters that the stream cannot encode become escapes."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    plain = printable(text, kept="\n").encode(encoding, "backslashreplace")
    stream.write(plain.decode(encoding))
    stream.flush()
