"""The sameness of class names: case, spaces, "_" and the forms of Unicode make no second class."""

import unicodedata
from collections.abc import Iterable, Sequence


def key(name: str) -> str:
    """Returns a text that two names share if they look or read alike.

    Unicode's forms (composed and decomposed letters, full width, ligatures) are one, characters
    without width (soft hyphen, zero-width space, marks of direction) do not count, and neither do
    case, the number and kind of spaces, and "_" for a space.
    """
    # casefold can undo the normal form, so that comes again after it
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    visible = "".join(c for c in folded if unicodedata.category(c) != "Cf" and not _selector(c))
    return " ".join(visible.replace("_", " ").split())


def _selector(character: str) -> bool:
    """Returns True for a variation selector, which chooses between two pictures of a letter."""
    return "\ufe00" <= character <= "\ufe0f"


def alike(names: Iterable[str]) -> tuple[str, str] | None:
    """Returns the first two different names of one key, or None."""
    seen: dict[str, str] = {}
    for name in names:
        if (first := seen.setdefault(key(name), name)) != name:
            return first, name
    return None


def pair(first: str, second: str) -> str:
    """Returns two names in a form that shows in which characters they differ."""
    if first.isascii() and second.isascii():
        return f"{first!r} and {second!r}"
    return f"{first!r} ({ascii(first)}) and {second!r} ({ascii(second)})"


def twin(name: str, known: Iterable[str]) -> str:
    """Returns half a sentence on the known name that `name` is another spelling of, or ""."""
    for other in known:
        if other != name and key(other) == key(name):
            return f" ({pair(name, other)} are spelled differently: spell them alike)"
    return ""


def shared_names(names: Sequence[str]) -> list[str]:
    """Returns a note if classes share a name, as "missile" in common lists of ImageNet, or []."""
    labels: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        labels.setdefault(key(name), []).append(i)
    shared = [own for own in labels.values() if len(own) > 1]
    if not shared:
        return []
    first, *others = dict.fromkeys(names[i] for i in shared[0])  # in all their spellings
    shown = pair(first, others[0]) if others else repr(first)
    return [
        f"Classes that share a name start from the same text, or nearly so: {len(shared)} such, "
        f"as {shown} of the labels {', '.join(map(str, shared[0]))}."
    ]
