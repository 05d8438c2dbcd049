"""Data sets in folders: one directory for each class."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lift_jax.data import splits
from lift_jax.data.names import files, same
from lift_jax.data.sources import folder_index, image_files
from lift_jax.data.sources.folder_index import Index
from lift_jax.data.sources.layouts import doubts
from lift_jax.data.sources.layouts.division import divide
from lift_jax.data.sources.paths import file, given
from lift_jax.data.types import Dataset, Fault, FileImages, Split
from lift_jax.settings.groups.data import DataSettings


def folder(settings: DataSettings, seed: int) -> Dataset:
    """Reads images that lie in one directory for each class, below `data.root`.

    Two layouts are read: `train/CLASS/...` with `test/CLASS/...` or `val/CLASS/...` (with both,
    `val` is the validation split), and a single division (`CLASS/...` or `train/CLASS/...`), of
    which the seed holds out `data.test_share` of every class. `layouts.division` says by which
    names splits are known, and which folders may lie between. Labels count the directories in
    natural order. Class names are the names of the directories or the lines of `data.class_names`,
    which helps with directories such as n01440764. Large trees are indexed: see `folder_index`.
    """
    root = given(settings.root, "data.root")
    source = settings.class_names and file(root, settings.class_names, "data.class_names")
    division = divide(root, [source] if source else [])
    held = {key: division.held[key] for key in ("test", "val") if key in division.held}
    roots = {"train": division.train} | held
    found = {key: folder_index.read(place) for key, place in roots.items()}
    names = tuple(found["train"].images)
    faults, notes = doubts.find(division.train, found["train"].images)
    faults += [*_one_class(division.train, names), *_same_names(division.train, names)]
    for key, place in roots.items():
        faults += _empty_classes(place, found[key])
        faults += _unknown_classes(place, found[key], division.train, names)
    parts = [split_of(place, found[key].images, names) for key, place in roots.items()]
    if source:
        given_names = files.read_for_folders(source, names, settings.clean_names)
        names = tuple(given_names.names)
        notes += [*given_names.notes, *same.shared_names(names)]
    data = Dataset(
        parts[0],
        parts[1] if held else parts[0].take(np.zeros(0, int)),
        names,
        val=parts[2] if len(held) > 1 else None,
        notes=(*division.notes, *_index_notes(roots, found), *notes),
        faults=tuple(faults),
    )
    return data if held else with_test(data, settings.test_share, seed, division.train)


def class_folders(root: Path) -> list[Path]:
    """Returns the folders in which a new folder of images is, or may be, taken as a class.

    Raises UserError as `divide` does.
    """
    division = divide(root)
    return [division.train, *division.held.values()] if division.held else [root]


def _index_notes(roots: Mapping[str, Path], found: Mapping[str, Index]) -> list[str]:
    """Returns notes on empty class folders, on files that are not taken, and on kept indices."""
    notes, others = [], []
    for key, place in roots.items():
        if empty := [str(place / name) for name in found[key].empty]:
            shown = ", ".join(empty[:5]) + (", ..." if len(empty) > 5 else "")
            kinds = "class folder" if len(empty) == 1 else "class folders"
            notes.append(f"Skipped {len(empty)} {kinds} without images: {shown}.")
        notes.append(found[key].note)
        others.append(image_files.placed(found[key].others, place))
    notes.append(image_files.not_taken(image_files.joined(others)))
    return list(filter(None, notes))


def split_of(root: Path, found: Mapping[str, Sequence[str]], names: Sequence[str]) -> Split:
    """Returns the images of the classes `found`, labelled by the index of the class in `names`.

    Images of other classes are left out.
    """
    labels = {name: i for i, name in enumerate(names)}
    known = {name: files for name, files in found.items() if name in labels}
    paths = [path for files in known.values() for path in files]
    sizes = [len(files) for files in known.values()]
    numbers = np.array([labels[name] for name in known], np.int32)
    return Split(FileImages(str(root), paths), np.repeat(numbers, sizes))


def with_test(data: Dataset, share: float, seed: int, source: Path) -> Dataset:
    """Holds out `share` of each class for the test. It is a fault if no image remains for it."""
    if not 0 < share < 1:
        why = (
            f"{source} has no test split, so data.test_share of the images is held out: expected a "
            f"number between 0 and 1, found {share}."
        )
    else:
        train, test = splits.hold_out(data.train, share, seed)
        if len(test):
            return replace(data, train=train, test=test)
        why = (
            f"Every class in {source} has a single image, so none can be held out for the test. "
            "Add images, or a test split."
        )
    fault = Fault("no test images", str(source), why, stops=True)
    return replace(data, test=data.train.take(np.zeros(0, int)), faults=(*data.faults, fault))


# --- faults ---


def _one_class(root: Path, names: Sequence[str]) -> list[Fault]:
    if len(names) > 1:
        return []
    cause = (
        f"{root} holds one class directory, {names[0]!r}. Expected two or more: is data.root the "
        "directory above the classes? If a file or the images' names tell the classes, give a list "
        "or a table (data.name=list, data.name=table)."
    )
    return [Fault("one class alone", str(root / names[0]), cause, stops=True)]


def _same_names(root: Path, names: Sequence[str]) -> list[Fault]:
    """Returns a fault for each directory whose name is another spelling of an earlier one."""
    seen: dict[str, str] = {}
    faults = []
    for name in names:
        if (first := seen.setdefault(same.key(name), name)) != name:
            cause = (
                f"{root} has the class directories {same.pair(first, name)}, which name the same "
                "class. Move the images of one into the other, or rename it."
            )
            faults.append(Fault("one class, two folders", str(root / name), cause, stops=True))
    return faults


def _empty_classes(root: Path, found: Index) -> list[Fault]:
    kind = "class folder without images"
    return [
        Fault(kind, str(root / name), f"{root / name} holds no images.", stops=False)
        for name in found.empty
    ]


def _unknown_classes(root: Path, found: Index, train: Path, names: Sequence[str]) -> list[Fault]:
    """Returns a fault for the classes of another split that training lacks, if there are any."""
    if not (extra := [name for name in found.images if name not in names]):
        return []
    twin = next(filter(None, (same.twin(name, names) for name in extra)), "")
    cause = (
        f"{root} has classes that {train} lacks: {', '.join(extra[:10])}{twin}. Every class needs "
        "training images: add them, or delete or rename these directories."
    )
    return [Fault("classes without training images", str(root / extra[0]), cause, stops=True)]
