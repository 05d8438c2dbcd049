"""The meaning of class names for the text tower: their texts, and the lines that say so."""

from collections.abc import Sequence
from dataclasses import dataclass

from lift_jax.data import class_prompts
from lift_jax.data.names import words
from lift_jax.data.types import Dataset
from lift_jax.models.text import TextConfig
from lift_jax.settings.groups.head import HeadSettings

ENGLISH_ALONE = (
    100_000  # tokens; towers that read many languages know more, as SigLIP 2 and mSigLIP
)
GIVE = "Give names by data.class_names=FILE, one a line"


@dataclass(frozen=True)
class Meaning:
    """The texts of the classes.

    Attributes:
        names: the class names as prompts say them.
        texts: the texts of each class; empty if the classes have no names.
        no_names: half a sentence that says why there are no texts, "" if there are.
        notes: sentences on names and texts.
        foreign: a warning for a text tower that knows English alone, or "".
    """

    names: tuple[str, ...]
    texts: list[list[str]]
    no_names: str = ""
    notes: tuple[str, ...] = ()
    foreign: str = ""

    def lines(self, tower: TextConfig | None) -> list[str]:
        """Returns what to print for a text tower; nothing without one."""
        if tower is None:
            return []
        english = tower.vocab < ENGLISH_ALONE and self.foreign
        return [*self.notes, *([self.foreign] if english else [])]


def prompt_names(names: Sequence[str], clean: bool) -> tuple[str, ...]:
    """Returns the names as prompts say them; `clean` is data.clean_names."""
    return words.read(names).names if clean else tuple(names)


def meaning(data: Dataset, clean: bool, head: HeadSettings) -> Meaning:
    """Returns the texts of the classes of a data set, by data.clean_names and the head's prompt.

    Raises UserError as `class_prompts.texts` does.
    """
    names = data.class_names
    if head.prompt == "descriptor":  # the file finds its phrases by the names as they are
        texts = class_prompts.texts(names, head.prompt, head.descriptors)
        return Meaning(names, texts, notes=(_shown(texts),))
    found = words.read(names)
    if clean and not data.named:
        return _nameless(names, "the data has no class names", "")
    if clean and found.are_codes:
        why = f"the class names are numbers or ids, as {_three(names)}"
        return _nameless(names, why, ", or data.clean_names=False to use these")
    spoken = found.names if clean else names
    texts = class_prompts.texts(spoken, head.prompt)
    notes = [_shown(texts)]
    if clean and found.changes:
        i = next(i for i, name in enumerate(names) if found.names[i] != name)
        notes.append(
            f"Class names in prompts: {names[i]!r} -> {class_prompts.spelled(found.names[i])!r} "
            f"({'; '.join(found.changes)}). Results show the names as they are. "
            "data.clean_names=False keeps them so in the prompts, too."
        )
    if clean and found.codes:
        notes.append(
            f"Warning: {len(found.codes):,} of {len(names):,} class names are numbers or ids, as "
            f"{found.codes[0]!r}, and say little in a prompt. {GIVE}."
        )
    return Meaning(spoken, texts, notes=tuple(notes), foreign=_foreign(names))


def _foreign(names: Sequence[str]) -> str:
    if not words.are_foreign(names):
        return ""
    odd = next(name for name in names if words.are_foreign([name]))
    return (
        f"Warning: most class names are not English, as {odd!r}, and the text tower knows English "
        f"alone. {GIVE}, start from images (head.init=class_mean), or take a backbone that reads "
        "many languages, such as siglip2_b16."
    )


def _nameless(names: tuple[str, ...], why: str, otherwise: str) -> Meaning:
    line = (
        f"No prompts, because {why}: the head starts from images by head.init=auto, and there is "
        f"no zero-shot result. {GIVE}{otherwise}."
    )
    return Meaning(names, [], why, (f"Warning: {line}" if otherwise else line,))


def _shown(texts: Sequence[Sequence[str]]) -> str:
    many = max(map(len, texts))
    more = f" (the first of {'up to ' * (min(map(len, texts)) < many)}{many} a class)"
    return f"Prompts: {_three([own[0] for own in texts])}{more * (many > 1)}"


def _three(names: Sequence[str]) -> str:
    """Returns the first, the middle and the last of several texts."""
    rows = sorted({0, len(names) // 2, len(names) - 1})
    return ", ".join(repr(names[i]) for i in rows)
