"""The types of a data set: splits of images and labels, with images in memory or in files.

Image files are decoded only when an image is asked for.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from jaxtyping import Int, UInt8

from lift_jax.data.images.decode import Decoding, Picture, open_image, read_bytes
from lift_jax.settings.groups.data import DataSettings


class Images(Protocol):
    """Random access to images. An implementation can be pickled, for worker processes."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> Picture | UInt8[np.ndarray, "h w 3"]:
        """Returns image i in RGB.

        Raises UserError if the file cannot be read: now, or when the pixels of a Picture are asked
        for.
        """
        ...

    def name(self, i: int) -> str:
        """Returns the path of image i, or a description that replaces it in messages."""
        ...

    def take(self, rows: Int[np.ndarray, "m"]) -> "Images":
        """Returns the images at these indices, in the order of `rows`."""
        ...


@dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels.

    Attributes:
        skip: True if the loader skips images that cannot be read; False if the first of them
            raises UserError.
        unreadable: the cause for each image that the loader skipped, by name. A split and its
            parts share it.
    """

    images: Images
    labels: Int[np.ndarray, "n"]
    skip: bool = False
    unreadable: dict[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self):
        object.__setattr__(self, "labels", np.asarray(self.labels, np.int32))
        if len(self.images) != len(self.labels):
            raise ValueError(f"{len(self.images)} images but {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Int[np.ndarray, "m"]) -> "Split":
        """Returns the images at these indices with their labels, in the order of `rows`."""
        return replace(self, images=self.images.take(rows), labels=self.labels[rows])


@dataclass(frozen=True)
class Fault:
    """A fault of a data set that lies in its lists or folders, not in one image.

    Attributes:
        kind: a few words for a heading, as "class folder without images".
        path: the file or folder at fault.
        cause: a sentence that names it, what was expected and what to do.
        stops: True if training stops for it; False if it does without what is at fault.
    """

    kind: str
    path: str
    cause: str
    stops: bool


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set: its splits and its classes.

    Attributes:
        class_names: in the order of the labels.
        named: False if the data has no class names, and `class_names` counts the classes.
        grouped_by: counts [c] that divide the classes into many, medium and few shot; None if the
            training counts do.
        val: the validation split, on which settings may be chosen; None if there is none.
        notes: sentences on how the data set was made, which a run prints.
        prepared: short side of the prepared training images in pixels; 0 if the original files are
            read.
        faults: what is wrong with lists or folders. `datasets.load` raises those that stop
            training, unless it is asked to tolerate them, to show them all.
    """

    train: Split
    test: Split
    class_names: tuple[str, ...]
    grouped_by: Int[np.ndarray, "c"] | None = None
    val: Split | None = None
    notes: tuple[str, ...] = ()
    prepared: int = 0
    faults: tuple[Fault, ...] = ()
    named: bool = True

    @property
    def counts(self) -> Int[np.ndarray, "c"]:
        """Returns n_c, the number of training images of each class."""
        return np.bincount(self.train.labels, minlength=len(self.class_names)).astype(np.int64)

    @property
    def group_counts(self) -> Int[np.ndarray, "c"]:
        """Returns the counts that divide the classes into many, medium and few shot."""
        return self.counts if self.grouped_by is None else self.grouped_by


@dataclass(frozen=True, eq=False)
class ArrayImages:
    """Images of one size in memory. `rows` are their indices in the original data set."""

    pixels: UInt8[np.ndarray, "n h w 3"]
    origin: str
    rows: Int[np.ndarray, "n"]

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, i: int) -> UInt8[np.ndarray, "h w 3"]:
        return self.pixels[i]

    def name(self, i: int) -> str:
        return f"{self.origin}, image {self.rows[i]}"

    def take(self, rows: Int[np.ndarray, "m"]) -> "ArrayImages":
        return replace(self, pixels=self.pixels[rows], rows=self.rows[rows])


@dataclass(frozen=True, eq=False, kw_only=True)
class EncodedImages(ABC):
    """Images in a file format, decoded when they are asked for. Subclasses read the bytes.

    `how` says how files are decoded.
    """

    how: Decoding = Decoding()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def content(self, i: int) -> bytes:
        """Returns the stored bytes of image i. Raises UserError if they cannot be read."""

    @abstractmethod
    def name(self, i: int) -> str:
        """Returns the path or description of image i for messages."""

    @abstractmethod
    def take(self, rows: Int[np.ndarray, "m"]) -> "EncodedImages":
        """Returns the images at these indices, in the order of `rows`."""

    def __getitem__(self, i: int) -> Picture:
        return open_image(self.content(i), self.name(i), self.how)


@dataclass(frozen=True, eq=False)
class FileImages(EncodedImages):
    """Image files. `paths` are relative to `root`, or absolute."""

    root: str
    paths: Sequence[str] = field(repr=False)

    def __len__(self) -> int:
        return len(self.paths)

    def content(self, i: int) -> bytes:
        return read_bytes(self.name(i))

    def name(self, i: int) -> str:
        return os.path.join(self.root, self.paths[i])

    def take(self, rows: Int[np.ndarray, "m"]) -> "FileImages":
        return replace(self, paths=[self.paths[i] for i in rows.tolist()])


def with_reading(data: Dataset, settings: DataSettings) -> Dataset:
    """Returns the data set with the decoding and the handling of bad files of `settings`."""
    how = Decoding(fast=settings.decode == "fast", exif=settings.exif)

    def apply(split: Split) -> Split:
        images = split.images
        if isinstance(images, EncodedImages):
            images = replace(images, how=how)
        return Split(images, split.labels, skip=settings.on_bad_image == "skip")

    val = data.val and apply(data.val)
    return replace(data, train=apply(data.train), test=apply(data.test), val=val)
