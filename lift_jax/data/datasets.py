"""The table of data sets by `data.name`, and the steps that apply to all of them.

`data.imbalance` (IR) cuts a long tail from the training images: CIFAR as in the literature (see
`sources.cifar`), the digits as their docstring says, every other data set from its largest class to
its smallest (see `splits.long_tailed`). `data.val_share` then holds out validation images, and
`data.max_per_class` cuts the classes that have more training images (`splits.capped`).
"""

import re
from collections.abc import Callable
from dataclasses import replace

from lift_jax.data import splits
from lift_jax.data.prepared import shards
from lift_jax.data.sources import cifar, folders, inaturalist, lists, tables, tfds
from lift_jax.data.sources.in_memory import digits, fake
from lift_jax.data.types import Dataset, with_reading
from lift_jax.errors import UserError, unknown
from lift_jax.settings.groups.data import DataSettings
from lift_jax.storage import addresses


def load(settings: DataSettings, seed: int, tolerant: bool = False) -> Dataset:
    """Returns the data set that the settings group `data` describes.

    `seed` draws the held-out test and validation images, the long tails (except those of CIFAR),
    the images of classes that are cut, and the made-up images.
    Raises UserError for an unknown name, for settings of another data set, and for files that are
    missing or contradict each other. If `tolerant`, faults that leave something to look at are in
    `Dataset.faults` instead.
    """
    check_source(settings)
    data = SOURCES[settings.name](settings, seed)
    if not tolerant and (stopping := [fault.cause for fault in data.faults if fault.stops]):
        more = f" (lift-jax data lists {len(stopping) - 1:,} more.)" if len(stopping) > 1 else ""
        raise UserError(stopping[0] + more)
    if settings.expected:
        note = compare(data, settings.expected, settings.level == "species")
        data = replace(data, notes=(*data.notes, note))
    if settings.imbalance != 1 and settings.name not in OWN_LONG_TAIL:
        data = splits.long_tailed(data, settings.imbalance, seed)
    if settings.val_share:
        data = splits.with_validation(data, settings.val_share, seed)
    if settings.max_per_class:
        data = replace(data, train=splits.capped(data.train, settings.max_per_class, seed))
    return shards.use(with_reading(data, settings), settings.prepared)


def check_source(settings: DataSettings) -> None:
    """Raises UserError for an unknown name, or for settings that its source does not read."""
    if settings.name not in SOURCES:
        raise unknown("data set (data.name)", settings.name, SOURCES)
    for key, owners in OWNERS.items():
        value, default = getattr(settings, key), getattr(DEFAULTS, key)
        if value not in ("", default) and settings.name not in (*owners, "fake"):
            raise UserError(
                f"data.{key} is {value!r}, but data.name is {settings.name!r}: "
                f"{key} belongs to {', '.join(owners)}. Set data.name to one of them, or leave "
                f"{key} out."
            )
    if addresses.is_remote(settings.root) and settings.name in LOCAL:
        raise UserError(
            f"data.root is {settings.root}, but data.name={settings.name!r} is read from a folder "
            "of this machine: copy it here, and set data.root to the copy."
        )


def compare(data: Dataset, expected: str, species: bool = True) -> str:
    """Returns a sentence that says whether the data set has the counts of the papers.

    Validation images are compared only if the data set has a validation split.

    Args:
        expected: "training/validation/test images/classes"; the second may be empty.
        species: False if the classes are of another level (`data.level`), and not compared.

    Raises UserError if `expected` is not of this form.
    """
    if not re.fullmatch(r"[0-9]+/[0-9]*/[0-9]+/[0-9]+", expected):
        raise UserError(
            f"data.expected is {expected!r}: expected training/validation/test images/classes, as "
            "in 115846/20000/50000/1000, or nothing."
        )
    counts = {
        "training images": len(data.train),
        "validation images": len(data.val) if data.val else None,
        "test images": len(data.test),
        "classes": len(data.class_names) if species else None,
    }
    differences = [
        f"{count:,} {kind}, not {int(wanted):,}"
        for (kind, count), wanted in zip(counts.items(), expected.split("/"), strict=True)
        if count is not None and wanted and count != int(wanted)
    ]
    if differences:
        return f"Warning: the data are not those of the papers: {'; '.join(differences)}."
    classes = " and classes" * species
    return f"The numbers of images{classes} are those of the papers."


SOURCES: dict[str, Callable[[DataSettings, int], Dataset]] = {
    "digits": digits.digits,
    "folder": folders.folder,
    "list": lists.list_files,
    "table": tables.table,
    "tfds": tfds.tfds,
    "inaturalist": inaturalist.inaturalist,
    "cifar10": cifar.cifar10,
    "cifar100": cifar.cifar100,
    "fake": fake.fake,
}
DEFAULTS = DataSettings()
OWNERS = {  # the sources that read a setting; with any other source it is an error
    "train_list": ("list", "table", "inaturalist"),
    "test_list": ("list", "table", "inaturalist"),
    "val_list": ("list", "table", "inaturalist"),
    "class_names": ("folder", "list", "table", "inaturalist", "tfds"),
    "level": ("inaturalist",),
    "tfds": ("tfds",),
}
LOCAL = ("cifar10", "cifar100", "tfds")  # sources that need seekable files on this machine
OWN_LONG_TAIL = ("cifar10", "cifar100", "digits")  # sources that apply data.imbalance themselves
