"""Doubts whether the folders of a tree are its classes, from the folders below them."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from lift_jax.data.sources.layouts import split_words
from lift_jax.data.types import Fault

DEEP = 0.9  # share of images below a second level of folders, from which that level matters
FEW = 5  # classes, among which a folder `images` is the whole data set rather than a class
CONTAINERS = ("images", "imgs", "jpegimages", "jpg", "annotations", "annotation", "labels")
LEFT_OVER = re.compile(r"unlabell?ed|unsorted|unannotated|background|clutter|google", re.IGNORECASE)
DATE = re.compile(r"(19|20)[0-9]{2}([-_. ]?[0-9]{2}){0,2}")
SHARD = re.compile(r"[0-9]+|[0-9a-f]{1,3}")


def find(root: Path, images: Mapping[str, Sequence[str]]) -> tuple[list[Fault], list[str]]:
    """Returns faults and notes on the meaning of the classes in `images` (paths by class)."""
    names = list(images)
    below = {name: _folders(paths) for name, paths in images.items()}
    checks = (_containers(names), _splits_below(below), _shards(below), _same_below(below))
    if told := next(filter(None, checks), ""):
        return [Fault("classes in doubt", str(root), f"{root}: {told}", stops=True)], []
    notes = [_levels(below)]
    if left := [name for name in names if LEFT_OVER.search(name)]:
        notes.append(
            f"Taken as classes like the others: {', '.join(left[:5])}. Move them out of {root} if "
            "they are none."
        )
    return [], list(filter(None, notes))


def _folders(paths: Sequence[str]) -> Counter[str]:
    """Returns the number of images in each folder of a class, {} unless nearly all lie in some."""
    parts = [path.split("/", 2) for path in paths]
    counts = Counter(each[1] for each in parts if len(each) > 2)
    return counts if counts.total() >= DEEP * len(paths) else Counter()


def _containers(names: list[str]) -> str:
    """Tells of folders such as images/ and annotations/, which are parts of a data set."""
    parts = [name for name in names if name.casefold() in CONTAINERS]
    if not parts or not 1 < len(names) <= FEW:
        return ""
    return (
        f"the folders with images are {', '.join(names)}, but {parts[0]!r} does not name a class. "
        f"Set data.root to {parts[0]}/ if the classes are folders in it; if a file or the images' "
        "names tell the classes, give a list or a table (data.name=list, data.name=table)."
    )


def _splits_below(below: Mapping[str, Counter[str]]) -> str:
    """Tells of CLASS/train and CLASS/test, the reverse of train/CLASS and test/CLASS."""
    reverse = []
    for name, own in below.items():
        readings = {each: split_words.read(each) for each in own}
        bare = {each: r.split for each, r in readings.items() if r and not r.rest}
        if len(set(bare.values())) > 1:
            reverse.append((name, sorted(bare)))
    if not reverse or 2 * len(reverse) < len(below):
        return ""
    return (
        f"the splits ({_few(reverse[0][1])}) lie below the folders {_few(n for n, _ in reverse)}. "
        "Expected the splits above the classes, as in train/CLASS/image.jpg. Move them, or set "
        "data.root to the one folder that holds the splits."
    )


def _same_below(below: Mapping[str, Counter[str]]) -> str:
    """Tells of A/cat, A/dog, B/cat, B/dog, where A and B may be splits or domains, not classes."""
    counts = Counter(name for own in below.values() for name in own)
    shared = [name for name, many in counts.items() if many > 1 and not DATE.fullmatch(name)]
    alike = [
        name
        for name, own in below.items()
        if len(common := set(own) & set(shared)) > 1 and 2 * len(common) >= len(own)
    ]
    if 2 * len(alike) < len(below) or not 1 < len(alike) <= max(3, len(shared)):
        return ""
    return (
        f"the folders {_few(alike)} hold folders of the same names ({_few(shared)}), so it is open "
        f"which of the two are the classes. If {alike[0]!r} and {alike[1]!r} are splits, name them "
        "train, val or test; if they are data sets of their own, set data.root to one of them; if "
        "they are the classes, move the images out of the folders in them."
    )


def _shards(below: Mapping[str, Counter[str]]) -> str:
    """Tells of a/airfield, b/beach and of 000/01, where the upper folders only divide the lower."""
    pairs = [(name, under) for name, own in below.items() for under in own]
    letters = all(len(a) < 3 and b.casefold().startswith(a.casefold()) for a, b in pairs)
    numbers = all(SHARD.fullmatch(a) and SHARD.fullmatch(b) for a, b in pairs)
    dates = all(DATE.fullmatch(b) for _, b in pairs)
    if not all(below.values()) or dates or not (letters or numbers):
        return ""
    lower = "/".join(pairs[0])
    return (
        f"the folders {_few(below)} only divide the {len(pairs):,} folders below them, as {lower}, "
        "so they are hardly the classes. Move those folders up, so that data.root or the split "
        f"holds {pairs[0][1]}/image.jpg; or give a list or a table (data.name=list, "
        "data.name=table)."
    )


def _levels(below: Mapping[str, Counter[str]]) -> str:
    """Notes that classes hold folders which are not told apart, as animals/cat, animals/dog."""
    pairs = [(name, under) for name, own in below.items() for under in own]
    told = [pair for pair in pairs if not DATE.fullmatch(pair[1])]
    if not all(below.values()) or len(pairs) == len(below) or not told:
        return ""
    return (
        f"The classes are the {len(below):,} folders of the first level ({_few(below)}). The "
        f"{len(pairs):,} folders below them, as {'/'.join(told[0])}, are not told apart."
    )


def _few(names: object) -> str:
    listed = list(names)
    return ", ".join(listed[:4]) + (", ..." if len(listed) > 4 else "")
