"""What a data set is: splits of images and labels, and the two places where images lie.

Images of files are decoded when they are asked for.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from lift_jax.data.decode import read_image


class Images(Protocol):
    """Random access to images; picklable, so that worker processes can hold it."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> Image.Image | UInt8[np.ndarray, "h w 3"]:
        """Returns image i in RGB. Raises UserError where its file cannot be read."""
        ...

    def name(self, i: int) -> str:
        """Returns the path of image i, or what stands for it in messages."""
        ...


@dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels."""

    images: Images
    labels: Int[np.ndarray, "n"]

    def __post_init__(self):
        object.__setattr__(self, "labels", np.asarray(self.labels, np.int32))
        if len(self.images) != len(self.labels):
            raise ValueError(f"{len(self.images)} images but {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training split, a test split and what their labels mean.

    `grouped_by` are the counts [c] that decide many, medium and few shot; None for the data set's
    own. `val` is what settings may be chosen on; None where the set has no such split.
    """

    train: Split
    test: Split
    class_names: tuple[str, ...]
    grouped_by: Int[np.ndarray, "c"] | None = None
    val: Split | None = None

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


@dataclass(frozen=True, eq=False)
class FileImages:
    """Image files below `root`, decoded when asked for."""

    root: str
    paths: Sequence[str] = field(repr=False)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> Image.Image:
        return read_image(self.name(i))

    def name(self, i: int) -> str:
        return os.path.join(self.root, self.paths[i])
