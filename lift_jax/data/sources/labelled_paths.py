"""What a text file says of images, a path and a class each, made into splits that fit together."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lift_jax.data.sources.paths import read_lines
from lift_jax.data.types import Dataset, FileImages, Split
from lift_jax.errors import UserError
from lift_jax.storage import addresses

LOOKED_FOR = 1000  # files of a listing


@dataclass(frozen=True)
class LabelledPaths:
    """Images in the order of a file: where each is in it (for messages), its path and its label."""

    paths: Sequence[str]
    paths: Sequence[str]
    labels: Sequence[int]


def dataset(
    root: Path, listings: Mapping[str, LabelledPaths], names: Sequence[str], why: str
) -> Dataset:
    """Returns the data set of the listings "train", "test" and, where there is one, "val".

    `why` says in messages where the number of classes comes from. Classes may lack training images;
    a run warns of them. Raises UserError where there are fewer than two classes, a label is out of
    range, a path has two labels, or many files are missing.
    """
    if len(names) < 2:
        raise UserError(f"Expected two classes or more, but {why}.")
    notes = same_names(names)
    for listing in listings.values():
        for i in np.flatnonzero(np.array(listing.labels) >= len(names))[:1]:
            raise UserError(
                f"{listing.places[i]}: the label {listing.labels[i]} is out of range, because "
                f"{why}. Labels count from 0."
            )
        notes += missing_files(root, listing)
    check_paths(listings, names)
    parts = {
        key: Split(FileImages(str(root), listing.paths), np.array(listing.labels, np.int32))
        for key, listing in listings.items()
    }
    train, test, val = parts["train"], parts["test"], parts.get("val")
    return Dataset(train, test, tuple(names), val=val, notes=tuple(notes))


def missing_files(root: Path, listing: LabelledPaths) -> list[str]:
    """Looks for `LOOKED_FOR` files of a listing, evenly from it; returns a warning if some lack.

    Looking for all takes minutes on a file server; a missing file is treated as unreadable where it
    is read. Raises UserError if half of them are missing: the usual cause is a wrong root, better
    said now.
    """
    some = range(0, len(listing.paths), max(1, len(listing.paths) // LOOKED_FOR))
    wanted = {i: os.path.join(root, listing.paths[i]) for i in some}
    missing = [i for i, path in wanted.items() if not addresses.exists(path)]
    if not missing:
        return []
    said = (
        f"{listing.places[missing[0]]}: there is no file {wanted[missing[0]]} ({len(missing):,} of "
        f"{len(wanted):,} files that were looked for are missing)."
    )
    if 2 * len(missing) < len(wanted):
        return [f"Warning: {said}"]
    raise UserError(f"{said} Paths are relative to data.root, which is {str(root)!r}.")


def check_paths(listings: Mapping[str, LabelledPaths], names: Sequence[str]) -> None:
    """Raises UserError for a path with two labels, in one listing or in two.

    "./a.jpg" and "b/../a.jpg" are the path "a.jpg".
    """
    seen: dict[str, tuple[int, LabelledPaths, int]] = {}
    for listing in listings.values():
        for i, (path, label) in enumerate(zip(listing.paths, listing.labels, strict=True)):
            first, other, j = seen.setdefault(os.path.normpath(path), (label, listing, i))
            if first != label:
                raise UserError(
                    f"{listing.places[i]}: {path!r} is of class {names[label]!r} ({label}), but of "
                    f"{names[first]!r} ({first}) in {other.places[j]}. Keep one."
                )


def read_names(path: Path) -> list[str]:
    """Returns the class names in a text file, the name of label 0 in line 1, and so on.

    Raises UserError for blank lines between names, which would move the names after them.
    """
    numbers, names = zip(*read_lines(path), strict=True)
    if numbers[-1] != len(names):
        raise UserError(
            f"{path} has a blank line among its {len(names)} names, so labels and names would not "
            "meet. Expected the name of label 0 in line 1, and so on."
        )
    return list(names)


def same_names(names: Sequence[str]) -> list[str]:
    """Returns a note where classes share a name, as "missile" in common lists of ImageNet.

    Names are compared as the prompts read them: "_" is a space.
    """
    spoken = [name.replace("_", " ") for name in names]
    twice = [name for name, many in Counter(spoken).items() if many > 1]
    if not twice:
        return []
    labels = [i for i, name in enumerate(spoken) if name == twice[0]]
    return [
        f"Classes that share a name start from the same text: {len(twice)} such, as {twice[0]!r} "
        f"of the labels {', '.join(map(str, labels))}."
    ]


def check_text(text: str, place: str) -> str:
    """Returns a path or name. Raises UserError if it is empty or no UTF-8 can hold it."""
    try:
        text.encode()
        whole = text and "\0" not in text
    except UnicodeEncodeError:
        whole = False
    if not whole:
        raise UserError(f"{place}: expected a path or a name, found {text!r}.")
    return text
