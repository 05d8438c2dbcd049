"""The agreement of processes on the data set: classes, counts, images and their order."""

import hashlib
from collections.abc import Iterable

import numpy as np

from lift_jax.data.prepared.shards import PreparedImages
from lift_jax.data.sources.tfds import TfdsImages
from lift_jax.data.types import ArrayImages, Dataset, FileImages, Split
from lift_jax.parallel import exchange
from lift_jax.parallel.agreement import agree


def agree_on_data(data: Dataset) -> None:
    """Raises UserError in all processes unless all have read the same data set.

    The folder of the images may be another on each machine, and the content of image files is not
    read.
    """
    if exchange.count() > 1:
        agree(describe(data))


def describe(data: Dataset) -> dict[str, str]:
    """Returns what a data set holds, as text by key."""
    classes = range(len(data.class_names))
    described = {
        "the number of classes": str(len(classes)),
        "the class names": ", ".join(data.class_names),
        "the training images of each class": _counts(data, data.counts),
        "the counts that group the classes": _counts(data, data.group_counts),
        "the short side of prepared images (data.prepared)": str(data.prepared or "not prepared"),
    }
    splits = {"training": data.train, "validation": data.val, "test": data.test}
    for name, split in splits.items():
        described[f"the {name} images and their labels"] = _images(split) if split else "none"
    return described


def _counts(data: Dataset, counts: np.ndarray) -> str:
    return ", ".join(f"{n} {name}" for name, n in zip(data.class_names, counts, strict=True))


def _images(split: Split) -> str:
    """Returns the names of the images on any machine, with their labels, in order."""
    images = split.images
    if isinstance(images, PreparedImages):
        images = images.taken
    if isinstance(images, ArrayImages):
        digest = hashlib.sha256(np.ascontiguousarray(images.pixels).data).hexdigest()[:16]
        return f"pixels of digest {digest}, {_listed(map(str, images.rows), split)}"
    if isinstance(images, TfdsImages):
        return f"{images.split}, {_listed(map(str, images.rows), split)}"
    if isinstance(images, FileImages):
        return _listed(images.paths, split)
    return _listed(map(images.name, range(len(images))), split)


def _listed(names: Iterable[str], split: Split) -> str:
    return ", ".join(f"{name} {label}" for name, label in zip(names, split.labels, strict=True))
