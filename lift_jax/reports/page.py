"""The HTML of a report: style, sections, tables, figures and numbers.

A page needs no other file. It follows the reader's light or dark mode, and it fits a phone: wide
tables and figures scroll in a box of their own.
"""

import base64
import html
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from lift_jax.reports import figures
from lift_jax.storage.atomic import open_replacement

# Figures keep their white background in dark mode: they are drawn once, for both. A shadow at the
# right of a box says that it scrolls; the first gradient scrolls along and covers it at the end.
STYLE = """
:root { color-scheme: light dark; --page: #f4f6f8; --card: #fff; --line: #e1e6eb;
  --rule: #edf0f3; --text: #1f2933; --muted: #52606d; --shadow: #0003; }
@media (prefers-color-scheme: dark) {
  :root { --page: #12171c; --card: #1b2229; --line: #313c46; --rule: #28323b; --text: #e4e9ee;
    --muted: #a3b0bc; --shadow: #000a; }
  .figure { border-radius: 6px; padding: .5rem; }
}
body { font: 16px/1.55 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
  color: var(--text); background: var(--page); margin: 0; overflow-wrap: anywhere; }
main { max-width: 64rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
h1 { font-size: 1.75rem; margin: 0; } h2 { font-size: 1.15rem; margin: 0 0 .8rem; }
.sub { color: var(--muted); margin: .3rem 0 1.6rem; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 1.3rem 1.5rem; margin: 1.1rem 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: 1rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 1rem 1.2rem; }
.card b { display: block; font-size: 1.6rem; line-height: 1.25; }
.card span, .note { color: var(--muted); font-size: .9rem; }
.scroll { overflow-x: auto;
  background-image: linear-gradient(to left, var(--card) 40%, transparent),
    linear-gradient(to left, var(--shadow), transparent);
  background-size: 3rem 100%, .8rem 100%; background-position: right;
  background-repeat: no-repeat; background-attachment: local, scroll; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums;
  font-size: .92rem; overflow-wrap: normal; }
th { color: var(--muted); font-weight: 600; }
td, th { padding: .38rem .45rem; text-align: right; border-bottom: 1px solid var(--rule);
  white-space: nowrap; }
td:first-child, th:first-child { text-align: left; padding-left: 0; white-space: normal;
  min-width: 9.5rem; }
table.plain td { text-align: left; white-space: normal; } td.best { font-weight: 700; }
table.plain td + td { overflow-wrap: anywhere; }
.figure { background: #fff; }
img { width: 100%; height: auto; display: block; } .note { margin: .8rem 0 0; }
.config { columns: 18rem; column-gap: 2.5rem; }
.config > div { break-inside: avoid; margin-bottom: 1rem; } .config b { color: var(--muted); }
@media (max-width: 40rem) {
  main { padding: 1.5rem .8rem 3rem; } section { padding: 1rem; }
  .scroll img { width: 38rem; }
}
"""


def write(path: Path, title: str, parts: Sequence[str]) -> Path:
    """Writes a page of HTML parts, complete or not at all; returns its path."""
    with open_replacement(path) as file:
        file.write(
            "<!doctype html><html lang=en><meta charset=utf-8>"
            '<meta name=viewport content="width=device-width, initial-scale=1">'
            f"<title>{html.escape(title)}</title><style>{STYLE}</style>"
            f"<main>{''.join(parts)}</main></html>\n"
        )
    return path


def heading(title: str, subtitle: str) -> str:
    """Returns the title of a page with a line below it."""
    return f"<h1>{html.escape(title)}</h1><p class=sub>{html.escape(subtitle)}</p>"


def section(title: str, body: str) -> str:
    """Returns a card with a title."""
    return f"<section><h2>{title}</h2>{body}</section>"


def cards(values: Sequence[tuple[str, str]]) -> str:
    """Returns cards of a large value and what it is, side by side where there is room."""
    text = "".join(
        f"<div class=card><b>{value}</b><span>{html.escape(label)}</span></div>"
        for value, label in values
    )
    return f"<div class=cards>{text}</div>"


def table(rows: str, *, plain: bool = False) -> str:
    """Returns a table of HTML rows that scrolls sideways where it is wider than the page.

    A plain table holds texts, which are set to the left and wrapped.
    """
    return f"<div class=scroll><table{' class=plain' if plain else ''}>{rows}</table></div>"


def note(text: str) -> str:
    """Returns a small paragraph."""
    return f"<p class=note>{html.escape(text)}</p>"


def figure(drawn: Figure, path: Path, alt: str) -> str:
    """Writes a figure as PNG and returns it as an image inside the page."""
    text = base64.b64encode(figures.write(drawn, path)).decode()
    image = f'<img alt="{alt}" src="data:image/png;base64,{text}">'
    return f'<div class="scroll figure">{image}</div>'


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
