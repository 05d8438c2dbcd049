"""The common end of lists, tables and JSON files: paths and labels become a checked data set."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from lift_jax.data.names.same import shared_names
from lift_jax.data.types import Dataset, Fault, FileImages, Split
from lift_jax.errors import UserError
from lift_jax.storage import addresses

Parsed = TypeVar("Parsed")
PROBED = 1000  # files of a split whose existence is checked


@dataclass(frozen=True)
class LabelledPaths:
    """The images that one file names, in the order of the file.

    Attributes:
        locations: where the file names each image ("train.txt, line 3"), for messages.
        paths: relative to the folder of the images, or absolute.
        labels: counted from 0.
    """

    locations: Sequence[str]
    paths: Sequence[str]
    labels: Sequence[int]


def dataset(
    root: Path,
    splits: Mapping[str, LabelledPaths],
    names: Sequence[str],
    class_count: str,
    *,
    notes: Sequence[str] = (),
    named: bool = True,
    faults: Sequence[Fault] = (),
) -> Dataset:
    """Returns the data set of the splits "train", "test" and, if given, "val".

    Classes may lack training images; a run warns of them.

    Args:
        root: the folder that relative paths start from.
        names: the class names in the order of the labels.
        class_count: half a sentence for messages that says where the number of classes comes
            from, as "names.txt names 10 classes".
        notes: what a run prints of the names.
        named: False if the data has no class names, and `names` counts the classes.
        faults: those of lines that cannot be read, whose images are left out.

    Further faults are labels out of range, whose images are left out, and paths with two labels.
    Raises UserError if there are fewer than two classes, all labels of a split are out of range, or
    half of the files are missing.
    """
    if len(names) < 2:
        few = f"Expected two classes or more, but {class_count}."
        raise UserError(faults[0].cause if faults else few)
    notes, parts, found = [*notes, *shared_names(names)], {}, [*faults]
    for key, split in splits.items():
        labels = np.array(split.labels, np.int64)
        beyond = out_of_range(split, len(names), class_count)
        if beyond and len(beyond) == len(labels):
            raise UserError(beyond[0].cause)
        notes += missing_files(root, split)
        whole = Split(FileImages(str(root), split.paths), np.minimum(labels, len(names)))
        parts[key] = whole.take(np.flatnonzero(labels < len(names))) if beyond else whole
        found += beyond
    found += two_labels(splits, names)
    return Dataset(
        parts["train"],
        parts["test"],
        tuple(names),
        val=parts.get("val"),
        notes=tuple(notes),
        named=named,
        faults=tuple(found),
    )


def parsed(
    lines: Iterable[tuple[str, Callable[[], Parsed]]],
) -> tuple[list[Parsed], list[Fault]]:
    """Returns what lines hold, and a fault for each that cannot be read.

    A line is its place for messages and a function that returns its content or raises UserError.
    Raises the first UserError if no line can be read.
    """
    found, faults = [], []
    for place, parse in lines:
        try:
            found.append(parse())
        except UserError as error:
            faults.append(Fault("line that cannot be read", place, str(error), stops=True))
    if faults and not found:
        raise UserError(faults[0].cause)
    return found, faults


def out_of_range(split: LabelledPaths, classes: int, class_count: str) -> list[Fault]:
    """Returns a fault for each label that is not below the number of classes."""
    faults = []
    for i in np.flatnonzero(np.array(split.labels, np.int64) >= classes).tolist():
        cause = (
            f"{split.locations[i]}: the label {split.labels[i]} is out of range, because "
            f"{class_count}. Labels count from 0.{from_one(split.labels)}"
        )
        faults.append(Fault("label out of range", split.paths[i], cause, stops=True))
    return faults


def from_one(labels: Sequence[int]) -> str:
    """Returns a sentence if labels seem to count from 1, without one left out, or ""."""
    present = set(labels)
    if len(present) < 2 or min(present) != 1 or max(present) != len(present):
        return ""
    return f" The labels are 1 to {max(present)}: if they count from 1, subtract 1."


def missing_files(root: Path, split: LabelledPaths) -> list[str]:
    """Checks that `PROBED` files, spread evenly over the split, exist; returns a warning or [].

    Checking every file takes minutes on a file server, and a missing file counts as unreadable when
    it is read. Raises UserError if half of the probed files are missing: the usual cause is a wrong
    data.root.
    """
    rows = range(0, len(split.paths), max(1, len(split.paths) // PROBED))
    probed = {i: os.path.join(root, split.paths[i]) for i in rows}
    missing = [i for i, path in probed.items() if not addresses.exists(path)]
    if not missing:
        return []
    text = (
        f"{split.locations[missing[0]]}: there is no file {probed[missing[0]]} ({len(missing):,} "
        f"of {len(probed):,} files that were looked for are missing)."
    )
    if 2 * len(missing) < len(probed):
        return [f"Warning: {text}"]
    why = f"Paths are relative to data.root, which is {str(root)!r}."
    if addresses.exists(probed[missing[0]].replace("\\", "/")):
        why = "Write / between folders, not \\."
    raise UserError(f"{text} {why}")


def two_labels(splits: Mapping[str, LabelledPaths], names: Sequence[str]) -> list[Fault]:
    """Returns a fault for each path with two labels, in one split or in two.

    "./a.jpg" and "b/../a.jpg" count as the path "a.jpg".
    """
    first_uses: dict[str, tuple[int, str]] = {}
    faults = []
    for split in splits.values():
        for location, path, label in zip(split.locations, split.paths, split.labels, strict=True):
            first, where = first_uses.setdefault(os.path.normpath(path), (label, location))
            if first != label and max(first, label) < len(names):
                cause = (
                    f"{location}: {path!r} is of class {names[label]!r} ({label}), but of "
                    f"{names[first]!r} ({first}) in {where}. Keep one."
                )
                faults.append(Fault("one path, two labels", path, cause, stops=True))
    return faults


def check_text(text: str, location: str) -> str:
    """Returns a path or a name. Raises UserError if it is empty or cannot be written as UTF-8."""
    try:
        text.encode()
        valid = text and "\0" not in text
    except UnicodeEncodeError:
        valid = False
    if not valid:
        raise UserError(f"{location}: expected a path or a name, found {text!r}.")
    return text
