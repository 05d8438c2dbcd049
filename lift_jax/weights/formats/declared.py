"""Values that a source's own config declares, checked: settings, squares and image statistics.

`where` begins every message and names the source and its config file.
"""

from collections.abc import Mapping
from typing import Any

from lift_jax.errors import UserError

SQUARES = ("image_size", "patch_size")  # sides of squares, which some configs write as two numbers
LARGEST = 10**9  # of any number, so that products of a few stay plain
# whole numbers that may be 0
FROM_ZERO = ("num_register_tokens", "eos_token_id")

# The expected value in words and its types, by the type of a setting's default.
_KINDS: dict[type, tuple[str, type | tuple[type, ...]]] = {
    bool: ("true or false", bool),
    str: ("a text", str),
    int: ("a whole number >= {}", int),
    float: ("a number above 0", (int, float)),
}


def part(where: str, config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Returns a part of a config, empty if it is absent or null.

    Raises UserError if it is not an object.
    """
    value = config.get(name)
    if value is not None and not isinstance(value, dict):
        raise UserError(
            f"{where} {name} is {value!r:.80}; expected an object with settings. Get the config "
            "again."
        )
    return value or {}


def read(
    where: str, given: Mapping[str, Any], defaults: Mapping[str, Any], prefix: str = ""
) -> dict[str, Any]:
    """Returns the settings in `defaults`, with the values in `given` where it has them.

    `prefix` comes before a setting's name in messages. Raises UserError if a value is not of its
    default's kind: true or false, a text, a whole number of at least 1 (or 0, see FROM_ZERO), or a
    number above 0.
    """
    settings = {key: given.get(key, default) for key, default in defaults.items()}
    for key, default in defaults.items():
        if key in SQUARES:
            settings[key] = side(where, prefix + key, settings[key])
        value, least = settings[key], int(key not in FROM_ZERO)
        expected, kinds = _KINDS[type(default)]
        valid = isinstance(value, kinds) and isinstance(value, bool) == isinstance(default, bool)
        if valid and isinstance(default, float):
            valid = 0 < value <= LARGEST
        elif valid and isinstance(default, int):
            valid = least <= value <= LARGEST or isinstance(default, bool)
        if not valid:
            raise UserError(
                f"{where} {prefix}{key} is {value!r:.80}; expected {expected.format(least)}."
            )
    return settings


def side(where: str, name: str, value: Any) -> int:
    """Returns the side of a square, given as one number or two equal ones.

    Raises UserError for any other value.
    """
    sides = value if isinstance(value, list | tuple) else [value]
    if not sides or any(
        type(s) is not int or not 1 <= s <= LARGEST or s != sides[0] for s in sides
    ):
        raise UserError(
            f"{where} {name} is {value!r:.80}; expected one number above 0: images are square."
        )
    return sides[0]


def whole_patches(where: str, size: int, patch: int) -> tuple[int, tuple[str, ...]]:
    """Returns (pixels of a side that whole patches cover, notes).

    There is a note if they do not cover the whole side. A convolution over patches never sees the
    rest, as in SigLIP with 384 pixels and 27 patches of 14. Raises UserError if the patch is larger
    than the image.
    """
    covered = size // patch * patch
    if not covered:
        raise UserError(
            f"{where} images of {size} pixels are cut into patches of {patch}; expected patches "
            "that are not larger than the images."
        )
    note = (
        f"Images are {covered} pixels a side, not {size} as in pre-training, where patches of "
        f"{patch} left the last {size - covered} out."
    )
    return covered, (note,) if covered < size else ()


def statistics(
    where: str, config: Mapping[str, Any], names: tuple[str, str], mean: Any, std: Any
) -> dict[str, Any]:
    """Returns {"mean": ..., "std": ...} of RGB in 0..1, the arguments for a tower's config.

    Args:
        names: the config's names of the two.
        mean, std: the values if the config has none.

    Raises UserError for anything but three numbers, or if a standard deviation is not above 0.
    """
    statistics = {}
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
        statistics[ours] = tuple(values)
    return statistics
