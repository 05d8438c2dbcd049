"""Which data sets there are, by the name that `data.name` gives, and what is cut from any of them.

`data.imbalance` IR long-tails the training images: CIFAR as the literature does (see `cifar`), the
digits as their docstring says, any other set from its largest class to its smallest (see
`splits.long_tailed`). `data.val_share` is held out of what remains, to validate on.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from lift_jax import remote
from lift_jax.data import cifar, folders, inaturalist, lists, prepare, splits, tables, tfds
from lift_jax.data.images import ArrayImages, Dataset, Split, with_reading
from lift_jax.errors import UserError, unknown

Config = Any  # the ConfigDict of the group `data`, whose fields have no types


def load(config: Config, seed: int) -> Dataset:
    """Returns the data set that the config group `data` describes.

    `seed` decides what is drawn: test and validation images, long tails (but not those of CIFAR),
    and the made-up images.
    Raises UserError for an unknown name and for files that are missing or contradict each other.
    """
    if config.name not in SOURCES:
        raise unknown("data set (data.name)", config.name, SOURCES)
    if not 1 <= config.imbalance < float("inf"):
        raise UserError(
            f"data.imbalance is the largest class over the smallest: expected 1 (as it is) or "
            f"more, found {config.imbalance}."
        )
    if not 0 <= config.val_share < 1:
        raise UserError(
            "data.val_share is the share of each class's training images to validate on: expected "
            f"a number from 0 (none) to below 1, found {config.val_share}."
        )
    for key, owners in OWNERS.items():
        if config[key] not in ("", "species") and config.name not in (*owners, "fake"):
            raise UserError(
                f"data.{key} is {config[key]!r}, but data.name is {config.name!r}: {key} belongs "
                f"to {', '.join(owners)}. Set data.name to one of them, or leave {key} out."
            )
    if remote.is_remote(config.root) and config.name in LOCAL:
        raise UserError(
            f"data.root is {config.root}, but data.name={config.name!r} is read from a folder of "
            "this machine: copy it here."
        )
    data = SOURCES[config.name](config, seed)
    if config.expected:
        note = compare(data, config.expected, config.level == "species")
        data = replace(data, notes=(*data.notes, note))
    if config.imbalance != 1 and config.name not in CUT:
        data = splits.long_tailed(data, config.imbalance, seed)
    if config.val_share:
        data = splits.with_validation(data, config.val_share, seed)
    return prepare.use(with_reading(data, config), config.prepared)


def compare(data: Dataset, expected: str, species: bool = True) -> str:
    """Returns a sentence that says whether the counts are those of the papers.

    `expected` is "training/validation/test images/classes"; validation images are compared where
    the data set has them, classes unless they are of another level than `species`. Raises UserError
    if it is not such.
    """
    if not re.fullmatch(r"[0-9]+/[0-9]*/[0-9]+/[0-9]+", expected):
        raise UserError(
            f"data.expected is {expected!r}: expected training/validation/test images/classes, as "
            "in 115846/20000/50000/1000, or nothing."
        )
    found = {
        "training images": len(data.train),
        "validation images": len(data.val) if data.val else None,
        "test images": len(data.test),
        "classes": len(data.class_names) if species else None,
    }
    other = [
        f"{many:,} {kind}, not {int(wanted):,}"
        for (kind, many), wanted in zip(found.items(), expected.split("/"), strict=True)
        if many is not None and wanted and many != int(wanted)
    ]
    if other:
        return f"Warning: the data are not those of the papers: {'; '.join(other)}."
    classes = " and classes" * species
    return f"The numbers of images{classes} are those of the papers."


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
        train.append(rows[30:][: round(splits.kept_of(140, config.imbalance, c, len(DIGITS)))])
    train, test = (
        Split(ArrayImages(pixels[rows], "scikit-learn's digits", rows), bunch.target[rows])
        for rows in (np.sort(np.concatenate(train)), np.sort(np.concatenate(test)))
    )
    return Dataset(train, test, DIGITS)


def _enlarge(image: np.ndarray) -> UInt8[np.ndarray, "32 32 3"]:
    grey = Image.fromarray(np.round(image * (255 / 16)).astype(np.uint8))
    return np.asarray(grey.resize((32, 32), Image.Resampling.BICUBIC).convert("RGB"))


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
    rows: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> UInt8[np.ndarray, "h w 3"]:
        rng = np.random.default_rng((self.seed, self.split, self.rows[i]))
        height, width = rng.integers(37, 44), rng.integers(47, 54)
        colour = list(COLOURS.values())[self.labels[i]]
        noise = rng.normal(scale=40, size=(height, width, 3))
        return np.clip(colour + noise, 0, 255).astype(np.uint8)

    def name(self, i: int) -> str:
        return f"made-up {('train', 'test')[self.split]} image {self.rows[i]}"

    def take(self, rows: Int[np.ndarray, "m"]) -> "FakeImages":
        kept = (tuple(each[i] for i in rows.tolist()) for each in (self.labels, self.rows))
        return FakeImages(self.seed, self.split, *kept)


def fake(config: Config, seed: int) -> Dataset:
    """Made-up images for debug runs: 7 colours, 61 training images (25 to 1 a class), 31 for test.

    Nothing is read from disk, and the sizes vary as those of photographs do.
    """
    labels = np.repeat(np.arange(len(COLOURS)), FAKE_COUNTS), np.arange(31) % len(COLOURS)
    train, test = (
        Split(FakeImages(seed, which, tuple(each.tolist()), tuple(range(len(each)))), each)
        for which, each in enumerate(labels)
    )
    return Dataset(train, test, tuple(COLOURS))


SOURCES: dict[str, Callable[[Config, int], Dataset]] = {
    "digits": digits,
    "folder": folders.folder,
    "list": lists.list_files,
    "table": tables.table,
    "tfds": tfds.tfds,
    "inaturalist": inaturalist.inaturalist,
    "cifar10": cifar.cifar10,
    "cifar100": cifar.cifar100,
    "fake": fake,
}
OWNERS = {  # of the keys that say nothing to the others
    "train_list": ("list", "table", "inaturalist"),
    "test_list": ("list", "table", "inaturalist"),
    "val_list": ("list", "table", "inaturalist"),
    "class_names": ("folder", "list", "table", "inaturalist", "tfds"),
    "level": ("inaturalist",),
    "tfds": ("tfds",),
}
LOCAL = ("cifar10", "cifar100", "tfds")  # have large files that are read in parts
CUT = ("cifar10", "cifar100", "digits")  # have a long tail of their own making
