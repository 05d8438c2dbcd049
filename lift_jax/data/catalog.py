"""Which data sets there are, by the name that `data.name` gives.

`data.imbalance` IR long-tails a balanced training set: of n images, class c of C keeps
n * (1 / IR)^(c / (C - 1)), so the first class keeps all and the last 1 / IR of them.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from lift_jax.data.images import ArrayImages, Dataset, Split
from lift_jax.data.sources import (
    cifar_files,
    cifar_records,
    folder_classes,
    folder_split,
    hold_out,
    read_lines,
    read_list,
)
from lift_jax.errors import UserError, unknown

Config = Any  # the ConfigDict of the group `data`, whose fields have no types


def load(config: Config, seed: int) -> Dataset:
    """Returns the data set that the config group `data` describes.

    `seed` decides what is drawn: the digits' and a folder's test split, and the made-up images.
    Raises UserError for an unknown name and for files that are missing or contradict each other.
    """
    if config.name not in SOURCES:
        raise unknown("data set (data.name)", config.name, SOURCES)
    if not config.imbalance >= 1:
        raise UserError(
            f"data.imbalance is the largest class over the smallest: expected 1 (as it is) or "
            f"more, found {config.imbalance}."
        )
    if config.imbalance != 1 and config.name not in LONG_TAILED:
        raise UserError(
            f"data.imbalance={config.imbalance} cannot be made from data.name={config.name!r}: "
            f"only {' and '.join(LONG_TAILED)} are balanced. Set data.imbalance=1."
        )
    return SOURCES[config.name](config, seed)


# --- sets in memory ---

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def digits(config: Config, seed: int) -> Dataset:
    """Real handwritten digits that come with scikit-learn: no download.

    1,797 images of 8 x 8 pixels with 16 grey levels (the test part of UCI's "Optical Recognition
    of Handwritten Digits"), bright strokes on black, enlarged once to 32 x 32 RGB. `seed` draws
    30 test images a class and, of the others, n_c = 140 * (1 / IR)^(c / 9) rounded to the nearest:
    with IR 50 that is 140, 91, 59, 38, 25, 16, 10, 7, 4 and 3 images of "zero" to "nine".
    """
    from sklearn.datasets import load_digits  # takes a second to import

    bunch: Any = load_digits()
    pixels = np.stack([_enlarge(image) for image in bunch.images])
    train, test = [], []
    for c in range(len(DIGITS)):
        rows = np.random.default_rng((seed, c)).permutation(np.flatnonzero(bunch.target == c))
        test.append(rows[:30])
        train.append(rows[30:][: round(_kept(140, config.imbalance, c, len(DIGITS)))])
    train, test = (
        Split(ArrayImages(pixels[rows], "scikit-learn's digits", rows), bunch.target[rows])
        for rows in (np.sort(np.concatenate(train)), np.sort(np.concatenate(test)))
    )
    return Dataset(train, test, DIGITS)


def _enlarge(image: np.ndarray) -> UInt8[np.ndarray, "32 32 3"]:
    grey = Image.fromarray(np.round(image * (255 / 16)).astype(np.uint8))
    return np.asarray(grey.resize((32, 32), Image.Resampling.BICUBIC).convert("RGB"))


def cifar100(config: Config, seed: int) -> Dataset:
    """CIFAR-100 (Krizhevsky, 2009) and its long-tailed subsets, from the official binary archive.

    `data.root` is cifar-100-binary.tar.gz, the directory that it unpacks to, or one that holds
    either. 50,000 training images (500 a class), 10,000 test images, 32 x 32. With IR 100, 50 and
    10 the training images are 10,847, 12,608 and 19,573: those of the papers, whatever the seed.
    Classes are grouped as many, medium and few shot by the counts of IR 100, as in LIFT, so that
    the groups of all three are the same classes.
    """
    files = cifar_files(_path(config.root, "data.root"))
    train, test = (cifar_records(files[f"{name}.bin"], f"{name}.bin") for name in ("train", "test"))
    names = tuple(files["fine_label_names.txt"].decode("ascii", "replace").split())
    highest = max(train[1].max(), test[1].max())
    if highest >= len(names):
        raise UserError(
            f"CIFAR-100 at {config.root} has the label {highest} but {len(names)} class names in "
            "fine_label_names.txt. The files are damaged: unpack the archive again."
        )
    rows = np.arange(len(train[1]))
    if config.imbalance != 1:
        rows = cifar_subset(train[1], config.imbalance)
    return Dataset(
        Split(ArrayImages(train[0][rows], "train.bin of CIFAR-100", rows), train[1][rows]),
        Split(ArrayImages(test[0], "test.bin of CIFAR-100", np.arange(len(test[1]))), test[1]),
        names,
        grouped_by=np.bincount(train[1][cifar_subset(train[1], 100.0)], minlength=len(names)),
    )


def cifar_subset(labels: Int[np.ndarray, "n"], imbalance: float) -> Int[np.ndarray, "m"]:
    """Returns the rows of the long-tailed subset that the literature uses, class by class.

    The counts are cut to integers, and the rows drawn as everywhere: NumPy's legacy generator,
    seeded with 0, shuffles the rows of one class after another.
    """
    classes = np.unique(labels)
    rng = np.random.RandomState(0)
    kept = []
    for c, label in enumerate(classes):
        rows = np.flatnonzero(labels == label)
        rng.shuffle(rows)
        kept.append(rows[: int(_kept(len(labels) / len(classes), imbalance, c, len(classes)))])
    return np.concatenate(kept)


def _kept(largest: float, imbalance: float, c: int, classes: int) -> float:
    """Returns n_c before rounding."""
    return largest * (1.0 / imbalance) ** (c / (classes - 1.0))


# --- sets in files ---


def folder(config: Config, seed: int) -> Dataset:
    """Any images in a directory a class, below `data.root`.

    Either `train/CLASS/...` with `test/CLASS/...` or `val/CLASS/...` (`test` where both are there),
    or one division (`CLASS/...` or `train/CLASS/...`) of which `data.test_share` of every class is
    held out by the seed. Class names are the directories', in natural order.
    """
    root = _path(config.root, "data.root")
    divided = (root / "train").is_dir()
    held = next((root / name for name in ("test", "val") if (root / name).is_dir()), None)
    if held and not divided:
        raise UserError(
            f"{root} (data.root) has a directory {held.name!r} but none named 'train'. Expected "
            "train/CLASS/image.jpg beside it, or one directory a class."
        )
    train_root = root / "train" if divided else root
    train = folder_classes(train_root)
    if len(train) < 2:
        raise UserError(
            f"{train_root} holds one class directory, {next(iter(train))!r}. Expected two or more: "
            "is data.root the directory above the classes?"
        )
    names = tuple(train)
    if held:
        test = folder_classes(held)
        if extra := [name for name in test if name not in train]:
            raise UserError(
                f"{held} has classes that {train_root} lacks: {', '.join(extra[:10])}. Every "
                "class needs training images: add them, or delete these directories."
            )
    else:
        if not 0 < config.test_share < 1:
            raise UserError(
                f"{root} has no directory 'test' or 'val', so data.test_share of the images is "
                f"held out: expected a number between 0 and 1, found {config.test_share}."
            )
        held = train_root
        train, test = hold_out(train, config.test_share, seed)
        if not test:
            raise UserError(
                f"Every class in {train_root} has a single image, so none can be held out for "
                "the test. Add images, or a directory 'test' beside 'train'."
            )
    return Dataset(folder_split(train_root, train, names), folder_split(held, test, names), names)


def list_files(config: Config, seed: int) -> Dataset:
    """Images named by two text files, `data.train_list` and `data.test_list`.

    Each line is `path label`; the path is relative to `data.root` and may hold spaces, the label
    counts from 0. `data.class_names` is a text file with a name a line; without it, classes are
    named "class 0" and so on. A relative list is looked for here, then in `data.root`. The lists
    of the field, not shipped here: ImageNet-LT (115,846 training and 50,000 test images, 1,000
    classes), Places-LT (62,500 and 36,500; 365), iNaturalist 2018 (437,513 and, to test, the
    24,426 of its validation; 8,142).
    """
    root = _path(config.root, "data.root")
    if not root.is_dir():
        raise UserError(
            f"There is no directory {root}. Set data.root to where the paths of the lists start."
        )
    train_path = _list_path(root, config.train_list, "data.train_list")
    test_path = _list_path(root, config.test_list, "data.test_list")
    (train, train_lines), (test, test_lines) = (
        read_list(path, str(root)) for path in (train_path, test_path)
    )
    if config.class_names:
        source = _list_path(root, config.class_names, "data.class_names")
        numbers, names = zip(*read_lines(source), strict=True)
        if numbers[-1] != len(names):
            raise UserError(
                f"{source} has a blank line among its {len(names)} names, so labels and names "
                "would not meet. Expected the name of label 0 in line 1, and so on."
            )
        why = f"{source} names {len(names)} classes"
    else:
        names = tuple(f"class {c}" for c in range(train.labels.max() + 1))
        why = f"the labels of {train_path} stop at {len(names) - 1}"
        if absent := sorted(set(range(len(names))) - set(train.labels.tolist())):
            raise UserError(
                f"{train_path} has no image of class {absent[0]} ({len(absent)} of {len(names)} "
                "classes are absent). Labels count from 0 without gaps; where a class is meant to "
                "have no images, set data.class_names to a file with all names."
            )
    if len(names) < 2:
        raise UserError(f"Expected two classes or more, but {why}.")
    for path, split, lines in ((train_path, train, train_lines), (test_path, test, test_lines)):
        wrong = np.flatnonzero(split.labels >= len(names))
        if wrong.size:
            raise UserError(
                f"{path}, line {lines[wrong[0]]}: the label {split.labels[wrong[0]]} is out of "
                f"range, because {why}. Labels count from 0."
            )
    return Dataset(train, test, names)


def _path(value: str, key: str) -> Path:
    if not value:
        raise UserError(f"{key} is empty. Set it to where the data set is, as in {key}=/data/set.")
    return Path(value).expanduser()


def _list_path(root: Path, value: str, key: str) -> Path:
    path = _path(value, key)
    choices = (path, root / path)
    for choice in choices:
        if choice.is_file():
            return choice
    places = " or ".join(dict.fromkeys(os.path.abspath(choice) for choice in choices))
    raise UserError(f"There is no file {places}. Set {key} to a text file.")


# --- made-up images ---

COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 70, 210),
    "yellow": (230, 210, 50),
    "purple": (140, 50, 160),
    "orange": (240, 140, 30),
    "grey": (128, 128, 128),
}
FAKE_COUNTS = (25, 14, 9, 6, 4, 2, 1)


@dataclass(frozen=True)
class FakeImages:
    """Noisy images of their class's colour, of about 40 x 50 pixels; image i is always the same."""

    seed: int
    split: int
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> UInt8[np.ndarray, "h w 3"]:
        rng = np.random.default_rng((self.seed, self.split, i))
        height, width = rng.integers(37, 44), rng.integers(47, 54)
        colour = list(COLOURS.values())[self.labels[i]]
        noise = rng.normal(scale=40, size=(height, width, 3))
        return np.clip(colour + noise, 0, 255).astype(np.uint8)

    def name(self, i: int) -> str:
        return f"made-up {('train', 'test')[self.split]} image {i}"


def fake(config: Config, seed: int) -> Dataset:
    """Made-up images for debug runs: 7 colours, 61 training images (25 to 1 a class), 31 for test.

    Nothing is read from disk, and the sizes vary as those of photographs do.
    """
    labels = np.repeat(np.arange(len(COLOURS)), FAKE_COUNTS), np.arange(31) % len(COLOURS)
    train, test = (
        Split(FakeImages(seed, which, tuple(each.tolist())), each)
        for which, each in enumerate(labels)
    )
    return Dataset(train, test, tuple(COLOURS))


SOURCES: dict[str, Callable[[Config, int], Dataset]] = {
    "digits": digits,
    "folder": folder,
    "list": list_files,
    "cifar100": cifar100,
    "fake": fake,
}
LONG_TAILED = ("cifar100", "digits")  # balanced sets that data.imbalance can cut
