"""Which data sets there are, by the name that `data.name` gives, and what is cut from any of them.

`data.imbalance` IR long-tails the training images: CIFAR as the literature does (see `cifar`), the
digits as their docstring says, any other set from its largest class to its smallest (see
`splits.long_tailed`). `data.val_share` is held out of what remains, to validate on.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from lift_jax.data import prepare, splits
from lift_jax.data.sources import cifar, folders, inaturalist, lists, tables, tfds
from lift_jax.data.sources.in_memory import digits, fake
from lift_jax.data.types import Dataset, with_reading
from lift_jax.errors import UserError, unknown
from lift_jax.settings.schema import DataSettings
from lift_jax.storage import addresses

Config = Any  # the ConfigDict of the group `data`, whose fields have no types


def load(settings: DataSettings, seed: int) -> Dataset:
    """Returns the data set that the config group `data` describes.

    `seed` decides what is drawn: test and validation images, long tails (but not those of CIFAR),
    and the made-up images.
    Raises UserError for an unknown name and for files that are missing or contradict each other.
    """
    if settings.name not in SOURCES:
        raise unknown("data set (data.name)", settings.name, SOURCES)
    for key, owners in OWNERS.items():
        if getattr(settings, key) not in ("", "species") and settings.name not in (*owners, "fake"):
            raise UserError(
                f"data.{key} is {getattr(settings, key)!r}, but data.name is {settings.name!r}: {key} belongs "
                f"to {', '.join(owners)}. Set data.name to one of them, or leave {key} out."
            )
    if addresses.is_remote(settings.root) and settings.name in LOCAL:
        raise UserError(
            f"data.root is {settings.root}, but data.name={settings.name!r} is read from a folder of "
            "this machine: copy it here."
        )
    data = SOURCES[settings.name](settings, seed)
    if settings.expected:
        note = compare(data, settings.expected, settings.level == "species")
        data = replace(data, notes=(*data.notes, note))
    if settings.imbalance != 1 and settings.name not in CUT:
        data = splits.long_tailed(data, settings.imbalance, seed)
    if settings.val_share:
        data = splits.with_validation(data, settings.val_share, seed)
    return prepare.use(with_reading(data, settings), settings.prepared)


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


SOURCES: dict[str, Callable[[DataSettings, int], Dataset]] = {
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
