"""The HTML pages of reports: templates, filled with plain data.

A page needs no other file and runs no script. It follows the reader's light or dark mode, and it
fits a phone: wide tables and figures scroll in a box of their own. The templates escape everything
that they are given.
"""

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from lift_jax.output.plain import printable
from lift_jax.reports import figures
from lift_jax.storage.atomic import open_replacement

TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True)
class Table:
    """A table of numbers as text.

    Attributes:
        headings: headings of the columns.
        rows: for each row its name and its cells, (text, True if it is the best of its column).
    """

    headings: list[str]
    rows: list[tuple[str, list[tuple[str, bool]]]]


@dataclass(frozen=True)
class Image:
    """A figure inside a page: its description, and its PNG in base64."""

    alt: str
    png: str


def write(path: Path, template: str, **values: Any) -> Path:
    """Writes a page, complete or not at all; returns its path.

    Args:
        path: the file to write.
        template: a file in templates/.
        values: what the template shows: texts, `Table`s and `Image`s.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined,
        finalize=_letters,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    text = environment.get_template(template).render(values)
    with open_replacement(path) as file:
        file.write(text + "\n")
    return path


def _letters(value: Any) -> Any:
    """Returns a text with control characters and lone surrogates as escapes, others unchanged.

    A browser would drop them, or let them reorder the text around them. The output of macros is no
    plain `str`: it is escaped already.
    """
    return printable(value) if type(value) is str else value


def image(drawn: Figure, path: Path, alt: str) -> Image:
    """Writes a figure as PNG and returns it for a page."""
    return Image(alt, base64.b64encode(figures.write(drawn, path)).decode())


def number(value: float | None) -> str:
    """Returns a number with two decimals or, of integers, separators; a dash for None and NaN."""
    if value is None or value != value:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.2f}"


def percent(value: float | None) -> str:
    """Returns a percentage with its sign, a dash alone for None and NaN."""
    text = number(value)
    return text if text == "–" else f"{text} %"


def duration(seconds: float | None) -> str:
    """Returns a time in hours and minutes, minutes and seconds, or seconds; a dash for None."""
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
