"""The one way to the terminal: plain text, without markup."""

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from lift_jax.output.plain import printable

Item = TypeVar("Item")


class Terminal(Console):
    """A console that prints texts as they are. Styles are given by `rich.text.Text` alone.

    Control characters are shown as escapes, and so are characters that the output's encoding lacks.
    """

    def __init__(self, **options: Any):
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Returns a text, or that of a table's cell, in the form to print: without markup."""
        plain = printable(text, kept="\n").encode(self.encoding, "backslashreplace")
        options |= {"markup": False, "emoji": False, "highlight": False}
        return super().render_str(plain.decode(self.encoding), **options)


def track(
    items: Iterable[Item], description: str, total: float | None = None, *, console: Console,
    disable: bool = False,
) -> Iterator[Item]:  # fmt: skip
    """Yields items behind a progress bar, which vanishes at the end."""
    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True, disable=disable) as bar:
        yield from bar.track(items, total=total, description=printable(description))
