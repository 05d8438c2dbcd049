"""Plain text: names from outside in the forms that a terminal, a table or a figure shows."""

import re

# `str.isprintable` accepts visible characters and the plain space. Some scripts also need joiners
# of letters (U+200C, U+200D) and spaces of other widths.
JOINERS = "\u200c\u200d"
LONGEST = 80  # characters in a line of a figure
BESIDE = 32  # characters of a name below or beside a drawing, which gives up its place for them
# Characters that mean something in Markdown. An underscore inside a word does not.
MARKDOWN = re.compile(r"[\\|`*\[\]~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
SPACES = re.compile("[\u00a0\u2000-\u200a\u202f\u205f\u3000]")


def printable(text: str, kept: str = "") -> str:
    """Returns a text whose control characters and lone surrogates are shown as escapes.

    So a name cannot move the cursor, begin a line, reorder the text around it or fail to be
    written. The control characters in `kept` stay, such as the line breaks of a message.
    """
    if text.isprintable():
        return text
    return "".join(c if _shown(c) or c in kept else _escape(c) for c in text)


def _shown(character: str) -> bool:
    return character.isprintable() or character in JOINERS or bool(SPACES.match(character))


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def markdown_cell(text: str) -> str:
    """Returns a text for a cell of a Markdown table, in which its characters mean themselves."""
    plain = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return MARKDOWN.sub(r"\\\g<0>", plain)


def minus(number: str) -> str:
    """Returns a written number with a minus sign in place of a hyphen, for tables that people read.

    The hyphen is hard to tell from the dash that stands for an unknown number.
    """
    return number.replace("-", "−")


def figure_text(text: str, longest: int = LONGEST) -> str:
    """Returns a text for a figure: lines of at most `longest` characters.

    A longer line loses its middle, because names of one kind often begin alike.
    """
    lines = printable(text, kept="\n").split("\n")
    end = longest // 2
    return "\n".join(
        f"{x[: longest - 1 - end]}…{x[-end:]}" if len(x) > longest else x for x in lines
    )


def beside(text: str) -> str:
    """Returns a name for a place below or beside a drawing."""
    return figure_text(text, BESIDE)
