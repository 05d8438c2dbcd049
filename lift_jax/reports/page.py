"""The HTML pages of reports: templates, filled with plain data.

A page needs no other file and loads nothing. It runs no script but the one of its template, if it
has any: its policy names the checksum of that script. It follows the reader's light or dark mode,
and it fits a phone: wide tables and figures scroll in a box of their own. The templates escape
everything that they are given.
"""

import base64
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from lift_jax.output.plain import printable
from lift_jax.reports import figure_file
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


@dataclass(frozen=True)
class Photo:
    """A small image with lines below it: its description, and its JPEG in base64, "" for none."""

    alt: str
    jpeg: str
    lines: list[str]


def write(path: Path, template: str, script: str = "", **values: Any) -> Path:
    """Writes a page, complete or not at all; returns its path.

    Args:
        path: the file to write.
        template: a file in templates/.
        script: the file in templates/ with the one script that the page may run, "" for none.
        values: what the template shows: texts, `Table`s and `Image`s.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined,
        finalize=_letters,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    code = (TEMPLATES / script).read_text(encoding="utf-8") if script else ""
    checksum = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    values |= {"script": Markup(code), "allowed": f"'sha256-{checksum}'" if code else "'none'"}
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


def embedded(value: Any) -> Markup:
    """Returns a value as JSON for a script element, which no text in it can end."""
    text = json.dumps(value, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def image(drawn: Figure, path: Path, alt: str) -> Image:
    """Writes a figure as PNG and returns it for a page."""
    return Image(alt, base64.b64encode(figure_file.write(drawn, path)).decode())


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
