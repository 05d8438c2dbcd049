"""The views of images as the model sees them, in training and in tests."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from lift_jax.data.images import views
from lift_jax.data.images.decode import Picture
from lift_jax.data.types import Dataset
from lift_jax.errors import UserError
from lift_jax.evaluation.evaluator import margin
from lift_jax.reports import figure_file
from lift_jax.reports.figures.views import views_figure
from lift_jax.settings.groups.model import ModelSettings
from lift_jax.settings.schema import Settings
from lift_jax.weights.names.known import PIXELS, resolution_of


def preview_resolution(model: ModelSettings, console: Console) -> int:
    """Returns the resolution of the backbone, as far as it is known without a download."""
    if known := model.resolution or resolution_of(model.backbone):
        return known
    console.print(
        f"{model.backbone} is not on this machine: its resolution is taken to be {PIXELS} pixels. "
        "Give --config.model.resolution for another."
    )
    return PIXELS


def draw(settings: Settings, data: Dataset, res: int, workdir: Path) -> None:
    """Writes views.png: images of large, middle and small classes as the model sees them."""
    c = settings.train
    training = views.TrainTransform(
        res=res, kind=c.augment, interpolation=c.interpolation, mda=c.mda, min_area=c.min_area,
        flip=c.flip, epochs=c.epochs,
    )  # fmt: skip
    plain = views.TestTransform(res, settings.test.interpolation)
    crops = views.FiveCrop(res, margin(settings.test.expand, res), settings.test.interpolation)
    epochs = sorted({0, c.epochs // 2, c.epochs - 1})
    columns = [
        "image",
        *(f"epoch {e + 1}" for e in epochs),
        "test",
        *(f"crop {k}" for k in "12345"),
    ]
    rows = {}
    for i in chosen_images(data):
        image = data.train.images[i]
        drawn = (training(image, np.random.default_rng((settings.seed, e, i)), e) for e in epochs)
        whole = Picture.of(image).pillow()
        whole.thumbnail((2 * res, 2 * res))
        title = f"{data.class_names[data.train.labels[i]]}\n{data.counts[data.train.labels[i]]:,}"
        rows[f"{title} images"] = [np.asarray(whole), *drawn, plain(image), *crops(image)]
    figure_file.write(views_figure(rows, columns), workdir / "views.png")


def chosen_images(data: Dataset) -> Sequence[int]:
    """Returns the first readable image of up to six classes, from the largest to the smallest."""
    order = [c for c in np.argsort(-data.counts, kind="stable") if data.counts[c]]
    picked = np.unique(np.linspace(0, len(order) - 1, 6).round().astype(int))
    chosen = []
    for c in (order[position] for position in picked):
        for i in np.flatnonzero(data.train.labels == c).tolist():
            try:
                data.train.images[i]
            except UserError:
                continue
            chosen.append(i)
            break
    return chosen
