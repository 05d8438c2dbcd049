"""Doubts whether the folders of a tree are its classes, from the folders below them."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lift_jax.data.names import same
from lift_jax.data.sources.layouts import split_words
from lift_jax.data.sources.layouts.split_words import is_date
from lift_jax.data.types import Fault

DEEP = 0.9  # share of images below a second level of folders, from which that level matters
FEW = 5  # classes, among which a folder `images` is the whole data set rather than a class
# Names of the parts of a data set; `image` is one only beside a folder of masks.
CONTAINERS = ("images", "imgs", "jpegimages", "jpg", "annotations", "annotation", "labels",
              "labeled", "labelled", "data", "dataset", "datasets")  # fmt: skip
MASKS = ("mask", "masks", "label", "annotation", "gt", "segmentation", "trimap", "depth")
PACKED = "image|img|part|batch|chunk|shard|fold|archive|volume|split"  # words of numbered parts
PARTS = re.compile(r"(fold|part|split|set|subset|batch|chunk|group|session)s?[-_. ]?\w{1,2}")
LEFT_OVER = re.compile(r"unlabell?ed|unsorted|unannotated|background|clutter|google", re.IGNORECASE)
SHARD = re.compile(r"[0-9]+|[0-9a-f]{1,3}")  # a number, or the start of a hexadecimal checksum


def find(root: Path, images: Mapping[str, Sequence[str]]) -> tuple[list[Fault], list[str]]:
    """Returns faults and notes on the meaning of the classes in `images` (paths by class)."""
    names = list(images)
    below = {name: _folders(paths) for name, paths in images.items()}
    inner = {name: _innermost(paths) for name, paths in images.items()}
    by_name = (_containers(names), _splits_inside(names))
    by_level = (_splits_below(inner), _shards(below), _same_below(inner))
    if told := next(filter(None, (*by_name, *by_level, _numbered(names))), ""):
        return [Fault("classes in doubt", str(root), f"{root}: {told}", stops=True)], []
    notes = [_levels(inner)]
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


def _innermost(paths: Sequence[str]) -> Counter[str]:
    """Returns `_folders` of a class, or of a folder that wraps all of it (A/images/cat)."""
    found = _folders(paths)
    while len(found) == 1:
        (wrap,) = found
        inside = [path.split("/", 1)[1] for path in paths]
        inside = [path for path in inside if path.startswith(f"{wrap}/")]
        if not (deeper := _folders(inside)):
            break
        found, paths = deeper, inside
    return found


# --- what is wrong, as the rest of a sentence; "" if nothing is ---


def _containers(names: list[str]) -> str:
    """Returns a fault for folders such as images/ and annotations/, parts of a data set."""
    spelled_names = {name.casefold() for name in names}
    named = {*CONTAINERS, "image", "img"} if spelled_names & {*MASKS} else CONTAINERS
    parts = [name for name in names if name.casefold() in named]
    if not parts or not 1 < len(names) <= FEW:
        return ""
    return (
        f"the folders with images are {', '.join(names)}, but {parts[0]!r} does not name a class. "
        f"Set data.root to {parts[0]}/ if the classes are folders in it; if a file or the images' "
        "names tell the classes, give a list or a table (data.name=list, data.name=table)."
    )


def _numbered(names: list[str]) -> str:
    """Returns a fault for images_001, images_002, which are parts of a data set."""
    stems = {re.sub(r"[0-9]+$", "", name.casefold()) for name in names}
    (stem, *more) = stems
    if len(names) < 2 or more or not re.search(rf"(^|[\W_])({PACKED})s?[\W_]*$", stem):
        return ""
    return (
        f"the folders {_few(names)} look like numbered parts of a data set, not like classes. If a "
        "file or the images' names tell the classes, give a list or a table (data.name=list, "
        "data.name=table)."
    )


def _splits_inside(names: list[str]) -> str:
    """Returns a fault for train/train and train/test, splits where classes are expected."""
    readings = [reading for name in names if (reading := split_words.read(name))]
    splits = {reading.split for reading in readings if not reading.rest}
    if len(readings) < len(names) or len(splits) < 2:
        return ""
    return (
        f"the folders in it, {_few(names)}, are named as splits, not as classes. Set data.root to "
        "the folder that holds the splits."
    )


def _splits_below(below: Mapping[str, Counter[str]]) -> str:
    """Returns a fault for CLASS/train and CLASS/test, the reverse of train/CLASS, test/CLASS."""
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
    """Returns a fault for A/cat, A/dog, B/cat, B/dog, where A and B may be splits or domains."""
    held = {name: {same.key(each): each for each in own} for name, own in below.items()}
    counts = Counter(each for own in held.values() for each in own)
    common = {each for each, many in counts.items() if many > 1 and not is_date(each)}
    alike = [
        name
        for name, own in held.items()
        if len(common & set(own)) > 1 and 2 * len(common & set(own)) >= len(own)
    ]
    parts = all(PARTS.fullmatch(name.casefold()) for name in alike)
    few = len(alike) <= max(3, len(common)) or parts
    if len(alike) < 2 or 2 * len(alike) < len(below) or not few:
        return ""
    shared = [name for each, name in held[alike[0]].items() if each in common]
    return (
        f"the folders {_few(alike)} hold folders of the same names ({_few(shared)}), so it is open "
        f"which of the two are the classes. If {alike[0]!r} and {alike[1]!r} are splits, name them "
        "train, val or test; if they are data sets of their own, set data.root to one of them; if "
        "they are the classes, move the images out of the folders in them."
    )


def _shards(below: Mapping[str, Counter[str]]) -> str:
    """Returns a fault for a/airfield, b/beach and for 000/01: the upper folders only divide."""
    pairs = [(name, under) for name, own in below.items() for under in own]
    letters = all(len(a) < 3 and b.casefold().startswith(a.casefold()) for a, b in pairs)
    numbers = all(SHARD.fullmatch(a) and SHARD.fullmatch(b) for a, b in pairs)
    dates = all(is_date(b) for _, b in pairs)
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
    """Returns a note on folders of classes that are not told apart, as animals/cat, animals/dog."""
    pairs = [(name, under) for name, own in below.items() for under in own]
    told = [pair for pair in pairs if not is_date(pair[1])]
    if not all(below.values()) or len(pairs) == len(below) or not told:
        return ""
    return (
        f"The classes are the {len(below):,} folders of the first level ({_few(below)}). The "
        f"{len(pairs):,} folders below them, as {'/'.join(told[0])}, are not told apart."
    )


def _few(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:4]) + (", ..." if len(listed) > 4 else "")
