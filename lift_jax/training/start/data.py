"""The data set of a run: loaded, checked and described in the log."""

from collections.abc import Sequence

import numpy as np
from rich.console import Console

from lift_jax.data import datasets
from lift_jax.data.agreement import agree_on_data
from lift_jax.data.images import traits
from lift_jax.data.types import Dataset, EncodedImages
from lift_jax.errors import UserError
from lift_jax.evaluation import metrics
from lift_jax.settings.groups.data import DataSettings
from lift_jax.settings.groups.test import TestSettings
from lift_jax.storage import addresses


def prepare_data(
    settings: DataSettings, test: TestSettings, seed: int, console: Console
) -> Dataset:
    """Loads and checks a data set, and prints its sizes and notes.

    Raises UserError for faults in its settings or files, and if it differs between processes.
    """
    data = datasets.load(settings, seed)
    agree_on_data(data)
    check_validation(data, test, settings.name)
    check_readable(data)
    print_data(data, console)
    return data


def check_validation(data: Dataset, test: TestSettings, name: str) -> None:
    """Raises UserError if test.adjust or test.split needs a validation split that is not there.

    `name` is data.name, for the message.
    """
    if data.val:
        return
    use = "test.split=val tests on the validation split" * (test.split == "val")
    if test.adjust:
        use = "test.adjust chooses its strength on a validation split, never on the test split"
    if use:
        raise UserError(
            f"{use}, and data.name={name!r} has none here. Give one: a folder val/ beside train/ "
            "and test/ (folder), data.val_list (list, table, inaturalist), or data.val_share=0.1, "
            "which holds that share of the training images out."
        )


def check_readable(data: Dataset) -> None:
    """Raises UserError for a split that skips unreadable images and has no other ones."""
    for name, split in (("training", data.train), ("validation", data.val), ("test", data.test)):
        if split is None or not split.skip:
            continue
        error = None
        for i in range(len(split)):
            try:
                np.asarray(split.images[i])
                break  # usually the first image
            except UserError as e:
                error = error or e
        else:
            raise UserError(f"None of the {len(split):,} {name} images can be read. {error}")


def print_data(data: Dataset, console: Console) -> None:
    """Prints sizes and notes of a data set, and a warning for classes without training images."""
    sizes = {k: int(v.sum()) for k, v in metrics.groups(data.group_counts).items()}
    console.print(
        f"Data: {len(data.train.labels):,} training and {len(data.test.labels):,} test images of "
        f"{len(data.class_names):,} classes ({sizes['many']} many, {sizes['medium']} medium, "
        f"{sizes['few']} few shot; {data.counts.max():,} to {data.counts.min():,} images a class)"
    )
    for note in data.notes:
        console.print(note)
    images = data.train.images
    if isinstance(images, EncodedImages) and not addresses.is_remote(images.name(0)):
        if note := traits.orientation_note(images):
            console.print(note)
    if not data.counts.all():
        empty = [data.class_names[i] for i in np.flatnonzero(data.counts == 0)]
        console.print(
            f"Warning: classes without a training image ({len(empty)} of "
            f"{len(data.class_names)}), which count as the smallest in the loss: {shorten(empty)}",
        )


def shorten(names: Sequence[str]) -> str:
    """Returns the first ten names, followed by dots if there are more."""
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
