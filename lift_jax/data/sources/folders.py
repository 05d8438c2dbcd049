"""Data sets in folders: one directory for each class."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lift_jax.data import splits
from lift_jax.data.names import files, same
from lift_jax.data.sources import folder_index
from lift_jax.data.sources.paths import file, given
from lift_jax.data.types import Dataset, FileImages, Split
from lift_jax.errors import UserError
from lift_jax.settings.schema import DataSettings


def folder(settings: DataSettings, seed: int) -> Dataset:
    """Reads images that lie in one directory for each class, below `data.root`.

    Two layouts are read: `train/CLASS/...` with `test/CLASS/...` or `val/CLASS/...` (with both,
    `val` is the validation split), and a single division (`CLASS/...` or `train/CLASS/...`), of
    which the seed holds out `data.test_share` of every class. Labels count the directories in
    natural order. Class names are the names of the directories or the lines of `data.class_names`,
    which helps with directories such as n01440764. Large trees are indexed: see `folder_index`.
    """
    root = given(settings.root, "data.root")
    held = [name for name in ("test", "val") if (root / name).is_dir()]
    divided = (root / "train").is_dir()
    if held and not divided:
        raise UserError(
            f"{root} (data.root) has a directory {held[0]!r} but none named 'train'. Expected "
            "train/CLASS/image.jpg beside it, or one directory a class."
        )
    train_root = root / "train" if divided else root
    found, note = folder_index.classes(train_root)
    if len(found) < 2:
        raise UserError(
            f"{train_root} holds one class directory, {next(iter(found))!r}. Expected two or more: "
            "is data.root the directory above the classes?"
        )
    names, notes = tuple(found), [note]
    if two := same.alike(names):
        raise UserError(
            f"{train_root} has the class directories {same.pair(*two)}, which name the same class. "
            "Move the images of one into the other, or rename it."
        )
    train = split_of(train_root, found, names)
    parts = []
    for name in held:
        found, note = folder_index.classes(root / name)
        if extra := [each for each in found if each not in names]:
            twin = same.twin(extra[0], names)
            raise UserError(
                f"{root / name} has classes that {train_root} lacks: {', '.join(extra[:10])}{twin}"
                ". Every class needs training images: add them, or delete these directories."
            )
        parts.append(split_of(root / name, found, names))
        notes.append(note)
    if not parts:
        train, test = tested(train, settings.test_share, seed, train_root)
        parts = [test]
    if settings.class_names:
        source = file(root, settings.class_names, "data.class_names")
        given_names = files.read_for_folders(source, names, settings.clean_names)
        names = tuple(given_names.names)
        notes += [*given_names.notes, *same.shared_names(names)]
    return Dataset(
        train,
        parts[0],
        names,
        val=parts[1] if len(parts) > 1 else None,
        notes=tuple(filter(None, notes)),
    )


def split_of(root: Path, found: Mapping[str, Sequence[str]], names: Sequence[str]) -> Split:
    """Returns the images of the classes `found`, labelled by the index of the class in `names`."""
    labels = {name: i for i, name in enumerate(names)}
    paths = [path for files in found.values() for path in files]
    sizes = [len(files) for files in found.values()]
    return Split(FileImages(str(root), paths), np.repeat([labels[name] for name in found], sizes))


def tested(train: Split, share: float, seed: int, source: Path) -> tuple[Split, Split]:
    """Holds out `share` of each class for the test. Raises UserError if no image remains for it."""
    if not 0 < share < 1:
        raise UserError(
            f"{source} has no test split, so data.test_share of the images is held out: expected a "
            f"number between 0 and 1, found {share}."
        )
    train, test = splits.hold_out(train, share, seed)
    if not len(test):
        raise UserError(
            f"Every class in {source} has a single image, so none can be held out for the test. "
            "Add images, or a test split."
        )
    return train, test
