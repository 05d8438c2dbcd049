"""The texts that describe each class to the text tower: one or several a class (LIFT, table 13)."""

from collections.abc import Sequence
from pathlib import Path

from lift_jax.data.names import same
from lift_jax.errors import UserError, near
from lift_jax.storage.names import expand_user
from lift_jax.storage.reading import DATA_BYTES, read_json

ENSEMBLE = Path(__file__).with_name("class_prompts.txt")


def texts(class_names: Sequence[str], prompt: str, descriptors: str = "") -> list[list[str]]:
    """Returns the texts of each class. "_" in a name is read as a space.

    Args:
        class_names: in the order of the labels.
        prompt: a template with {} for the name; "classname", the name alone; "ensemble", the 80
            templates published with CLIP; or "descriptor", the phrases of a file.
        descriptors: the file for "descriptor", JSON: {class name: [phrase, ...]}. It may hold more
            classes than `class_names`.

    Raises UserError if the file cannot be read, is not of this form, or lacks phrases for a class.
    """
    if prompt == "descriptor":
        return _read_descriptors(class_names, expand_user(descriptors))
    if prompt == "ensemble":
        lines = ENSEMBLE.read_text(encoding="utf-8").splitlines()
        templates = [line for line in lines if not line.startswith("#")]
    else:
        templates = ["{}" if prompt == "classname" else prompt]
    return [[t.replace("{}", spelled(name)) for t in templates] for name in class_names]


def spelled(name: str) -> str:
    """Returns a name as prompts spell it, with "_" read as a space."""
    return name.replace("_", " ")


def _read_descriptors(class_names: Sequence[str], path: Path) -> list[list[str]]:
    remedy = "head.descriptors is a file {class name: [phrase, ...]}."
    given = read_json(path, most_bytes=DATA_BYTES, remedy=remedy)
    by_class = {spelled(name): phrases for name, phrases in given.items()}
    by_key = {same.key(name): phrases for name, phrases in given.items()}
    found = [by_class.get(spelled(name), by_key.get(same.key(name))) for name in class_names]
    missing = [name for name, own in zip(class_names, found, strict=True) if own is None]
    if missing:
        listed = ", ".join(map(repr, missing[:10])) + (", ..." if len(missing) > 10 else "")
        guess = "".join(
            f" Did it mean {missing[0]!r} by {name!r}?"
            for name in near(spelled(missing[0]), by_class)[:1]
        )
        raise UserError(
            f"{path} (head.descriptors) has no phrases for {len(missing)} of {len(class_names)} "
            f"classes: {listed}.{guess}"
        )
    for name, phrases in zip(class_names, found, strict=True):
        valid = isinstance(phrases, list) and all(isinstance(p, str) and p.strip() for p in phrases)
        if not valid or not phrases:
            raise UserError(
                f"{path} (head.descriptors), class {name!r}: expected a list of phrases; found "
                f"{str(phrases)[:60]!r}."
            )
    return [phrases for phrases in found if phrases is not None]
