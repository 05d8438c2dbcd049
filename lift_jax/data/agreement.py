"""The agreement of processes on the data set: classes, counts, images and their order."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from lift_jax.data.prepare import PreparedImages
from lift_jax.data.sources.tfds import TfdsImages
from lift_jax.data.types import ArrayImages, Dataset, FileImages, Images, Split
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
        described[f"the {name} images"] = _digest(split) if split else "none"
    return described


def _counts(data: Dataset, counts: np.ndarray) -> str:
    return ", ".join(f"{n} {name}" for name, n in zip(data.class_names, counts, strict=True))


def _digest(split: Split) -> str:
    """Returns the number of images, and a digest of their names and labels in order."""
    digest = hashlib.sha256(split.labels.tobytes())
    for part in _identity(split.images):
        digest.update(part.encode(errors="surrogateescape") if isinstance(part, str) else part)
        digest.update(b"\0")
    return f"{len(split)} with paths and labels of digest {digest.hexdigest()[:16]}"


def _identity(images: Images) -> Iterable[str | bytes]:
    """Yields what identifies images on any machine, in order."""
    if isinstance(images, PreparedImages):
        yield images.rows.astype(np.int64).tobytes()
        images = images.taken
    if isinstance(images, ArrayImages):
        yield from (repr(images.pixels.shape), images.pixels.tobytes())
    elif isinstance(images, TfdsImages):
        yield from (Path(images.home).name, images.split, images.feature)
        yield np.asarray(images.rows, np.int64).tobytes()
    elif isinstance(images, FileImages):
        yield from images.paths
    else:
        yield from (images.name(i) for i in range(len(images)))
