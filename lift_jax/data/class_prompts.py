"""What the text tower is told of each class: one text or several (LIFT, table 13)."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lift_jax.errors import UserError, near

SETS = ("classname", "ensemble", "descriptor")
ENSEMBLE = Path(__file__).with_name("class_prompts.txt")


def check(prompt: str, descriptors: str) -> None:
    """Raises UserError unless `prompt` is a template or one of `SETS`, and has its file."""
    if "{}" not in prompt and prompt not in SETS:
        meant = "".join(f" Did you mean {name!r}?" for name in near(prompt, SETS)[:1])
        raise UserError(
            f"head.prompt is {prompt!r}; it needs {{}} where the class name goes, as in 'a photo "
            f"of a {{}}.', or is one of {', '.join(SETS)}.{meant}"
        )
    if prompt == "descriptor" and not descriptors:
        raise UserError(
            "head.prompt is 'descriptor': give head.descriptors, a JSON file of phrases by class "
            'name, as in {"red fox": ["a red animal", "a bushy tail"], ...}.'
        )
    if prompt != "descriptor" and descriptors:
        raise UserError(
            f"head.descriptors is {descriptors!r}, but head.prompt is {prompt!r}: descriptors "
            "belong to 'descriptor'."
        )


def texts(class_names: Sequence[str], prompt: str, descriptors: str = "") -> list[list[str]]:
    """The texts of each class; "_" in a name is read as a space.

    Args:
        class_names: in the order of the labels.
        prompt: a template with {} for the name; "classname", the name alone; "ensemble", the 80
            templates that CLIP was published with; or "descriptor", the phrases of a file.
        descriptors: that file, JSON: {class name: [phrase, ...]}. It may hold more classes.

    Raises UserError, naming them, for classes without phrases, and for a file that is not such.
    """
    if prompt == "descriptor":
        return _described(class_names, Path(descriptors).expanduser())
    if prompt == "ensemble":
        lines = ENSEMBLE.read_text(encoding="utf-8").splitlines()
        templates = [line for line in lines if not line.startswith("#")]
    else:
        templates = ["{}" if prompt == "classname" else prompt]
    return [[t.replace("{}", _spoken(name)) for t in templates] for name in class_names]


def _spoken(name: str) -> str:
    return name.replace("_", " ")


def _described(class_names: Sequence[str], path: Path) -> list[list[str]]:
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise UserError(f"Cannot read {path} (head.descriptors): {e.strerror}.") from e
    except ValueError as e:  # also of bytes that are not UTF-8
        raise UserError(f"{path} (head.descriptors) is not JSON in UTF-8: {e}.") from e
    if not isinstance(found, dict):
        raise UserError(
            f"{path} (head.descriptors): expected an object, {{class name: [phrase, ...]}}; found "
            f"{str(found)[:60]!r}."
        )
    by_name = {_spoken(name): phrases for name, phrases in found.items()}
    missing = [name for name in class_names if _spoken(name) not in by_name]
    if missing:
        listed = ", ".join(map(repr, missing[:10])) + (", ..." if len(missing) > 10 else "")
        meant = "".join(
            f" Did it mean {missing[0]!r} by {name!r}?"
            for name in near(_spoken(missing[0]), by_name)[:1]
        )
        raise UserError(
            f"{path} (head.descriptors) has no phrases for {len(missing)} of {len(class_names)} "
            f"classes: {listed}.{meant}"
        )
    phrases = [by_name[_spoken(name)] for name in class_names]
    for name, some in zip(class_names, phrases, strict=True):
        whole = isinstance(some, list) and all(isinstance(p, str) and p.strip() for p in some)
        if not whole or not some:
            raise UserError(
                f"{path} (head.descriptors), class {name!r}: expected a list of phrases; found "
                f"{str(some)[:60]!r}."
            )
    return phrases
