"""List files, with one line `path label` for each image."""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from lift_jax.data.names import files as files_of_names
from lift_jax.data.sources import labelled_paths
from lift_jax.data.sources.labelled_paths import LabelledPaths
from lift_jax.data.sources.paths import file, folder, read_lines, split_files
from lift_jax.data.types import Dataset, Fault
from lift_jax.errors import UserError
from lift_jax.settings.groups.data import DataSettings

DIGITS = 9  # the longest label, which still fits into 32 bits


def list_files(settings: DataSettings, seed: int) -> Dataset:
    """Reads list files: `data.train_list`, `data.test_list` and, if given, `data.val_list`.

    Each line is `path label`. The path is relative to `data.root` or absolute; it may hold
    spaces and lead out of the root (`../`). Labels count from 0. `data.class_names` is a text
    file with one name in each line; without it, classes are named "class 0" and so on, which
    gives no prompts. A relative list is looked for in the working directory, then in
    `data.root`. The lists of the literature are not shipped: ImageNet-LT (115,846 training,
    20,000 validation and 50,000 test images of 1,000 classes), Places-LT (62,500, 7,300 and
    36,500 images of 365 classes) and iNaturalist 2018 (437,513 training images and 24,426
    validation images, used as test, of 8,142 classes).
    """
    root = folder(settings.root)
    files = split_files(settings, root, needed=("train", "test"))
    read, faults = {}, []
    for split, path in files.items():
        read[split], broken = read_list(path)
        faults += broken
    notes: list[str] = []
    if settings.class_names:
        source = file(root, settings.class_names, "data.class_names")
        found = files_of_names.read(source, settings.clean_names)
        names, notes = found.names, found.notes
        why = f"{source} names {len(names)} classes"
        notes += first_label([c for split in read.values() for c in split.labels], names)
    else:
        many = count_classes(read["train"].labels, files["train"], whole=not faults)
        names = [f"class {c}" for c in range(many)]
        why = f"the labels of {files['train']} stop at {len(names) - 1}"
    named = bool(settings.class_names)
    return labelled_paths.dataset(root, read, names, why, notes=notes, named=named, faults=faults)


def read_list(path: Path) -> tuple[LabelledPaths, list[Fault]]:
    """Reads a list file; returns its images, and a fault for each line that is no `path label`.

    Raises UserError, which names the first line, if none is.
    """
    lines = [(f"{path}, line {number}", line) for number, line in read_lines(path)]
    found, faults = labelled_paths.parsed(
        (place, partial(_image, place, line)) for place, line in lines
    )
    return LabelledPaths(*zip(*found, strict=True)), faults


def _image(place: str, line: str) -> tuple[str, str, int]:
    """Returns the place, path and label of an image. Raises UserError for another line."""
    found = re.fullmatch(r"(.*\S)[ \t]+([0-9]+)", line)
    if not found:
        raise UserError(
            f"{place}: expected `path label` with a label of 0 or more, as in "
            f"`train/cat/1.jpg 0`, found {line!r}."
        )
    return place, labelled_paths.check_text(found[1], place), checked_label(found[2], place)


def checked_label(digits: str, place: str) -> int:
    """Returns a label written in digits. Raises UserError if it has more than `DIGITS` digits."""
    if len(digits.lstrip("0")) > DIGITS:
        raise UserError(f"{place}: the label {digits[:40]} is too large.")
    return int(digits.lstrip("0") or "0")


def first_label(labels: Sequence[int], names: Sequence[str]) -> list[str]:
    """Returns a warning if labels beside a file of names seem to count from 1, or []."""
    told = labelled_paths.from_one(labels)
    if not told or max(labels) >= len(names):  # the latter is an error
        return []
    return [f"Warning: no image has the label 0, {names[0]!r}.{told}"]


def count_classes(labels: Sequence[int], source: Path, whole: bool) -> int:
    """Returns the number of classes. Raises UserError if a label below the last has no image.

    If the labels are not `whole`, because lines cannot be read, it does not.
    """
    present = set(labels)
    if not whole:
        return max(present) + 1
    if len(present) <= max(present):
        absent = next(c for c in range(len(present) + 1) if c not in present)
        raise UserError(
            f"{source} has no image of class {absent} ({max(present) + 1 - len(present)} of "
            f"{max(present) + 1} classes are absent). Labels count from 0 without gaps; where a "
            "class is meant to have no images, set data.class_names to a file with all names."
        )
    return len(present)
