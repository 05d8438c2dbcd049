"""The texts of an exported folder, from templates/: scripts, and the model card."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lift_jax.output.plain import markdown_cell
from lift_jax.storage import atomic

TEMPLATES = Path(__file__).parent / "templates"


def write_script(path: Path, template: str, values: Mapping[str, Any]) -> None:
    """Writes a program. Its values are numbers and words of ours, never names from outside."""
    _write(path, template, values, str)


def write_card(path: Path, template: str, values: Mapping[str, Any]) -> None:
    """Writes a text in Markdown, in which the characters of every value mean themselves.

    What a template marks as `safe` stays as it is.
    """
    _write(path, template, values, lambda x: markdown_cell(x) if type(x) is str else x)


def _write(path: Path, template: str, values: Mapping[str, Any], finalize: Any) -> None:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, finalize=finalize,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    text = environment.get_template(template).render(values)
    atomic.write_bytes(path, text.encode(errors="backslashreplace"))
