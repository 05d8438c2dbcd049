"""Values of settings, checked: their type, range, choices, length, and texts that hold numbers."""

import math
import unicodedata
from contextlib import suppress
from pathlib import Path
from typing import Any

from lift_jax.errors import UserError, shown, unknown
from lift_jax.settings.setting import Entry

LONGEST_NAME = 255  # bytes of a file's name, on all usual file systems
TYPE_NAMES = {
    bool: "true or false", int: "a whole number", float: "a number", str: "text",
}  # fmt: skip


def check_value(entry: Entry, value: Any) -> Any:
    """Returns a value of the setting's type. Raises UserError for another type or out of range."""
    about = entry.about
    # a whole number that a float cannot hold lies outside every range
    if entry.type is float and type(value) is int and about.contains(value):
        value = float(value)
    if type(value) is not entry.type and not (entry.type is float and type(value) is int):
        raise UserError(
            f"{entry.key} is {shown(value)}; expected {TYPE_NAMES[entry.type]}, as in the default "
            f"{entry.default!r}."
        )
    if isinstance(value, str):
        return check_text(entry, value)
    if about.range and not about.contains(value):
        raise UserError(f"{entry.key} is {shown(value)}; it must be {about.range}.")
    return value + 0.0 if entry.type is float else value  # the sum turns -0.0 into 0.0


def check_text(entry: Entry, value: str) -> str:
    """Returns a text. Raises UserError if it is too long, or can be neither printed nor a path."""
    about, longest = entry.about, entry.about.longest
    if about.choices and value not in about.choices:
        raise unknown(entry.key, value, about.choices)
    if len(value) > longest:
        raise UserError(
            f"{entry.key} has {len(value):,} characters; expected at most {longest:,}. It begins "
            f"{value[:40]!r}."
        )
    if odd := [letter for letter in value if unicodedata.category(letter) in ("Cc", "Cs")]:
        raise UserError(
            f"{entry.key} is {shown(value)}; expected text in one line, found the character "
            f"{odd[0]!r}."
        )
    if not about.path or "://" in value:
        return value
    if any(len(name.encode()) > LONGEST_NAME for name in value.split("/")):
        raise UserError(
            f"{entry.key} is {shown(value)}; expected a path, whose names have at most "
            f"{LONGEST_NAME} bytes each."
        )
    if value.startswith("~"):
        try:
            Path(value).expanduser()
        except RuntimeError as error:
            raise UserError(f"{entry.key} is {shown(value)}: {error}") from error
    return value


def three_numbers(key: str, text: str) -> tuple[float, ...]:
    """Returns the three numbers that a text of the form 0.485,0.456,0.406 holds; () if it is empty.

    Raises UserError, which names the key, for any other text.
    """
    try:
        numbers = tuple(float(part) for part in text.split(",") if text)
    except ValueError:
        numbers = (math.nan,)
    if len(numbers) not in (0, 3) or not all(map(math.isfinite, numbers)):
        raise UserError(
            f"{key} is {shown(text)}; expected three numbers of red, green and blue with commas "
            "between them, like 0.485,0.456,0.406."
        )
    return numbers


def fixed_scale(key: str, text: str) -> float | None:
    """Returns the number that a text holds, None for "learned".

    Raises UserError, which names the key, for any other text, and unless 0 < number <= 10**6.
    """
    if text == "learned":
        return None
    with suppress(ValueError):
        if 0 < float(text) <= 10**6:
            return float(text)
    raise UserError(f"{key} is {shown(text)}; expected learned, or a positive number like 0.1.")
