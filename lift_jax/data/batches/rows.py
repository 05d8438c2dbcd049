"""Rows of a batch: what is shown of an image, its label and its mask, by the slot that names it."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from lift_jax.data.batches.order import PADDING, Slot, Slots
from lift_jax.data.images import on_device
from lift_jax.data.images.views import RandomCrops, TrainTransform, View
from lift_jax.data.types import Split
from lift_jax.errors import UserError

Batch = dict[str, np.ndarray]
REPEAT = 2  # spawn key of the views of repeated draws


@dataclass(frozen=True)
class TrainExample:
    split: Split
    transform: TrainTransform
    seed: int

    def __call__(self, slot: Slot, image: np.ndarray) -> dict[str, Any]:
        epoch, i, repeat = slot
        if i == PADDING:
            return _pad(image, self.split, self.transform, PADDING)
        draw: Any = (self.seed, epoch, i)
        if repeat:
            draw = np.random.SeedSequence(draw, spawn_key=(REPEAT, repeat))
        rng = np.random.default_rng(draw)
        return _show(image, self.split, i, self.transform, rng, epoch)


@dataclass(frozen=True)
class EvalExample:
    split: Split
    transform: View
    seed: int

    def __call__(self, slot: Slot, image: np.ndarray) -> dict[str, Any]:
        _, i, _ = slot
        return self.row(i, image)

    def row(self, i: int, image: np.ndarray) -> dict[str, Any]:
        """Writes image i, or padding, to `image`; returns the other values of its row."""
        return self._show(image, i) | {"row": np.int32(i)}

    def _show(self, image: np.ndarray, i: int) -> dict[str, Any]:
        if i == PADDING:
            return _pad(image, self.split, self.transform, PADDING)
        if not isinstance(self.transform, RandomCrops):
            return _show(image, self.split, i, self.transform)
        # the spawn key keeps these draws apart from those for training
        sequence = np.random.SeedSequence((self.seed, i), spawn_key=(1,))
        return _show(image, self.split, i, self.transform, np.random.default_rng(sequence))


@dataclass(frozen=True)
class BatchSource:
    """The batches of a process by number, each made whole.

    Grain spends as much on an element as a small image takes, so an element is a batch.
    """

    slots: Slots
    example: TrainExample | EvalExample
    process: int
    processes: int

    def __len__(self) -> int:
        return len(self.slots) // self.slots.batch

    def __getitem__(self, index: int) -> Batch:
        begin, end = index * self.slots.batch, (index + 1) * self.slots.batch
        numbers = range(begin + self.process, end, self.processes)
        split, transform = self.example.split, self.example.transform
        # images are written here one by one; rows of their own would take fresh memory and a copy
        images = np.empty((len(numbers), *shape_of(split, transform)), dtype_of(transform))
        rows = [
            self.example(self.slots[n], image) for n, image in zip(numbers, images, strict=True)
        ]
        return {"image": images} | {key: np.stack([row[key] for row in rows]) for key in rows[0]}


def _show(
    image: np.ndarray, split: Split, i: int, transform: TrainTransform | View, *draw: Any
) -> dict[str, Any]:
    """Writes what is shown of image i to `image`; returns the other values of its row."""
    shown = {}
    try:
        found = split.images[i]
        if sent := on_device.sent_shape(split.images, transform):
            image[:] = found
            shown["cut"] = on_device.fields(transform.cuts(*sent[:2], *draw), transform)
        else:
            image[:] = transform(found, *draw)
    except UserError:
        if not split.skip:
            raise
        return _pad(image, split, transform, i)
    return shown | {"label": split.labels[i], "mask": np.True_} | _bad(split, PADDING)


def _pad(
    image: np.ndarray, split: Split, transform: TrainTransform | View, bad: int
) -> dict[str, Any]:
    """Writes zeros to `image`; returns the other values of a row without an image."""
    image[:] = 0
    shown = {}
    if on_device.sent_shape(split.images, transform):
        shown["cut"] = on_device.padding(transform)
    return shown | {"label": np.int32(0), "mask": np.False_} | _bad(split, bad)


def _bad(split: Split, i: int) -> dict[str, Any]:
    """Returns the index of the image that could not be read, or PADDING; {} if it would raise."""
    return {"bad": np.int32(i)} if split.skip else {}


def shape_of(split: Split, transform: TrainTransform | View) -> tuple[int, ...]:
    """Returns the shape of one image as it is sent to the device."""
    return on_device.sent_shape(split.images, transform) or transform.shape


def dtype_of(transform: TrainTransform | View) -> np.dtype:
    """Returns uint8 for images, and the dtype of rows of activations (`evaluation.activations`)."""
    return np.dtype(getattr(transform, "dtype", np.uint8))
