"""What a loader reads: images with their view, or the activations that take their place."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from lift_jax.data.types import Split


@dataclass(frozen=True, eq=False)
class ActivationRows:
    """Activations that take the place of a split's images, one row for each.

    Attributes:
        rows: activations, memory-mapped, [images ...].
        file: path of the file that holds them.
    """

    rows: np.ndarray
    file: Path

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> np.ndarray:
        return self.rows[i]

    def name(self, i: int) -> str:
        """Returns the name of a row, for messages."""
        return f"{self.file}, row {i}"

    def take(self, rows: Int[np.ndarray, "m"]) -> "ActivationRows":
        """Returns the rows with these indices."""
        return ActivationRows(self.rows[rows], self.file)


@dataclass(frozen=True)
class IdentityView:
    """The view that returns a row unchanged.

    Attributes:
        shape: shape of a row.
        dtype: type of a row.
    """

    shape: tuple[int, ...]
    dtype: np.dtype

    def __call__(self, row: np.ndarray, rng: Any = None, epoch: int = 0) -> np.ndarray:
        return row


class Reading(NamedTuple):
    """The input of a loader: images and their view, or activations.

    Attributes:
        split: images or activations, with labels.
        view: function from an image, or a row of activations, to what the model gets.
        start: the block that activations enter; 0 for images.
        workers: number of processes that decode images (see data.workers).
    """

    split: Split
    view: Any
    start: int
    workers: int
