"""What a config says, checked: its settings over its library's defaults, squares, statistics."""

from collections.abc import Mapping
from typing import Any

from lift_jax.errors import UserError

SQUARES = ("image_size", "patch_size")  # sides, which some write as a list of two
FROM_ZERO = ("num_register_tokens", "eos_token_id")

# what a setting must be, by the type of its default
_KINDS: dict[type, tuple[str, type | tuple[type, ...]]] = {
    bool: ("true or false", bool),
    str: ("a text", str),
    int: ("a whole number >= {}", int),
    float: ("a number above 0", (int, float)),
}


def part(where: str, config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A part of a config; empty where it is absent or null. Raises UserError for another thing."""
    found = config.get(name)
    if found is not None and not isinstance(found, dict):
        raise UserError(f"{where} {name} is {found!r:.80}; expected an object with settings.")
    return found or {}


def read(
    where: str, given: Mapping[str, Any], defaults: Mapping[str, Any], prefix: str = ""
) -> dict[str, Any]:
    """The settings that have a default, taken from `given` where it has them.

    Raises UserError, naming the setting with `prefix` in front, for one that is not of its
    default's kind: true or false, a text, a whole number of at least 1 (or 0), one above 0.
    """
    settings = {key: given.get(key, default) for key, default in defaults.items()}
    for key, default in defaults.items():
        if key in SQUARES:
            settings[key] = side(where, prefix + key, settings[key])
        value, least = settings[key], int(key not in FROM_ZERO)
        expected, kinds = _KINDS[type(default)]
        right = isinstance(value, kinds) and isinstance(value, bool) == isinstance(default, bool)
        if right and isinstance(default, float):
            right = value > 0
        elif right and isinstance(default, int):
            right = value >= least or isinstance(default, bool)
        if not right:
            raise UserError(
                f"{where} {prefix}{key} is {value!r:.80}; expected {expected.format(least)}."
            )
    return settings


def side(where: str, name: str, value: Any) -> int:
    """The side of a square. Raises UserError for one that is not."""
    sides = value if isinstance(value, list | tuple) else [value]
    if not sides or any(type(s) is not int or s < 1 or s != sides[0] for s in sides):
        raise UserError(
            f"{where} {name} is {value!r:.80}; expected one number above 0: images are square."
        )
    return sides[0]


def whole_patches(where: str, size: int, patch: int) -> tuple[int, tuple[str, ...]]:
    """The pixels of a side that patches cover, and a note if these are not all.

    A convolution over patches never sees the others (SigLIP of 384 pixels and 27 patches of 14).
    Raises UserError for a patch that is larger than the image.
    """
    covered = size // patch * patch
    if not covered:
        raise UserError(f"{where} images of {size} pixels are cut into patches of {patch}.")
    note = (
        f"Images are {covered} pixels a side, not {size} as in pre-training, where patches of "
        f"{patch} left the last {size - covered} out."
    )
    return covered, (note,) if covered < size else ()


def statistics(
    where: str, config: Mapping[str, Any], names: tuple[str, str], mean: Any, std: Any
) -> dict[str, Any]:
    """Our `mean` and `std` of RGB, by their `names` in a config, or those given.

    Raises UserError for anything but three numbers, those of the second above 0.
    """
    found = {}
    for ours, name, default in zip(("mean", "std"), names, (mean, std), strict=True):
        value = config.get(name, default)
        values = value if isinstance(value, list | tuple) else []
        numbers = [x for x in values if type(x) in (int, float) and (x > 0 or ours == "mean")]
        if len(values) != 3 or len(numbers) != 3:
            above = " above 0" * (ours == "std")
            raise UserError(
                f"{where} {name} is {value!r:.80}; expected three numbers{above}, of red, green "
                "and blue."
            )
        found[ours] = tuple(values)
    return found
