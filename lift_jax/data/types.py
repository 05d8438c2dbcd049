"""What a data set is: splits of images and labels, and the two places where images lie.

Images of files are decoded when they are asked for.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from jaxtyping import Int, UInt8

from lift_jax.data.images.decode import Decoding, Picture, open_image, read_bytes
from lift_jax.settings.schema import DataSettings


class Images(Protocol):
    """Random access to images; picklable, so that worker processes can hold it."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> Picture | UInt8[np.ndarray, "h w 3"]:
        """Returns image i in RGB. Raises UserError where its file cannot be read: now, or when the
        pixels of a Picture are asked for."""
        ...

    def name(self, i: int) -> str:
        """Returns the path of image i, or what stands for it in messages."""
        ...

    def take(self, rows: Int[np.ndarray, "m"]) -> "Images":
        """Returns the images of these rows, in their order."""
        ...


@dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels.

    With `skip`, images that cannot be read are passed over by the loader, which notes them in
    `bad`: index to cause. Without, the first of them is an error.
    """

    images: Images
    labels: Int[np.ndarray, "n"]
    skip: bool = False
    bad: dict[int, str] = field(default_factory=dict, repr=False)

    def __post_init__(self):
        object.__setattr__(self, "labels", np.asarray(self.labels, np.int32))
        if len(self.images) != len(self.labels):
            raise ValueError(f"{len(self.images)} images but {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Int[np.ndarray, "m"]) -> "Split":
        """Returns the images of these rows with their labels, in their order."""
        return Split(self.images.take(rows), self.labels[rows])


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training split, a test split and what their labels mean.

    `grouped_by` are the counts [c] that decide many, medium and few shot; None for the data set's
    own. `val` is what settings may be chosen on; None where the set has no such split. `notes` are
    sentences on how the set was made, for a run to print. `prepared` is the short side in pixels of
    a prepared training split, 0 for one that is read as it is.
    """

    train: Split
    test: Split
    class_names: tuple[str, ...]
    grouped_by: Int[np.ndarray, "c"] | None = None
    val: Split | None = None
    notes: tuple[str, ...] = ()
    prepared: int = 0

    @property
    def counts(self) -> Int[np.ndarray, "c"]:
        """Returns n_c, the training images of each class."""
        return np.bincount(self.train.labels, minlength=len(self.class_names)).astype(np.int64)

    @property
    def group_counts(self) -> Int[np.ndarray, "c"]:
        """Returns the counts that decide many, medium and few shot."""
        return self.counts if self.grouped_by is None else self.grouped_by


@dataclass(frozen=True, eq=False)
class ArrayImages:
    """Images of one size held in memory. `rows` are their places in the set they came from."""

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
    """Images in a file format, decoded when they are asked for; a subclass says where they lie."""

    how: Decoding = Decoding()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def content(self, i: int) -> bytes:
        """Returns image i as it is stored. Raises UserError where it cannot be read."""

    @abstractmethod
    def name(self, i: int) -> str:
        """Returns what stands for image i in messages."""

    @abstractmethod
    def take(self, rows: Int[np.ndarray, "m"]) -> "EncodedImages":
        """Returns the images of these rows, in their order."""

    def __getitem__(self, i: int) -> Picture:
        return open_image(self.content(i), self.name(i), self.how)


@dataclass(frozen=True, eq=False)
class FileImages(EncodedImages):
    """Image files below `root`, decoded when asked for."""

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
    """Returns the data set with its files read as the settings say."""
    how = Decoding(fast=settings.decode == "fast", exif=settings.exif)

    def read(split: Split) -> Split:
        images = split.images
        if isinstance(images, EncodedImages):
            images = replace(images, how=how)
        return Split(images, split.labels, skip=settings.on_bad_image == "skip")

    val = data.val and read(data.val)
    return replace(data, train=read(data.train), test=read(data.test), val=val)
