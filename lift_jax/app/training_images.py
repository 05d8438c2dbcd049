"""The training images of a run: those most like an image, and small pictures of them."""

import functools
from pathlib import Path

import numpy as np
from jaxtyping import Float

from lift_jax.data import datasets
from lift_jax.data.images.decode import Picture
from lift_jax.data.sources.download import offline
from lift_jax.data.types import Images
from lift_jax.errors import UserError
from lift_jax.evaluation.insight import neighbours
from lift_jax.runs.kept import features, kept_file, thumbnails
from lift_jax.settings.schema import Settings

NEAREST = 5  # images that are shown
REMEMBERED = 500  # small pictures, of about 10 KB
SIDE, QUALITY = 240, 85  # of the JPEGs: sharp on dense screens at half the side


def small_jpeg(picture: Picture) -> bytes:
    """Returns an image as the page shows it. Raises UserError if it cannot be decoded."""
    return thumbnails.jpeg(picture, SIDE, "bicubic", QUALITY)


class TrainingImages:
    """The training images whose features a run keeps.

    Attributes:
        labels: of each image.
        notes: sentences that say what cannot be shown.
    """

    def __init__(self, workdir: Path, settings: Settings, weights: int):
        self.notes: list[str] = []
        self.labels: list[int] = []
        self._features: np.ndarray | None = None
        self._images: Images | None = None
        self._places: list[int | None] = []
        self._small = functools.lru_cache(REMEMBERED)(self._thumbnail)
        found = self._read(workdir, weights)
        if found is not None:
            self.labels = found.labels.tolist()
            self._features = neighbours.unit(found.after)
            self._find(found.names, settings)

    def _read(self, workdir: Path, weights: int) -> features.Features | None:
        """Returns the features of the checkpoint that is used; without any, notes why."""
        lacking = "so the training images most like an image are not shown."
        try:
            found = features.read(workdir)
        except UserError as error:
            self.notes.append(f"The features of training images cannot be read, {lacking} {error}")
            return None
        if found is None:
            self.notes.append(f"The run holds no {features.NAME}, {lacking} {kept_file.REMEDY}")
        elif found.weights != weights:
            self.notes.append(
                f"{features.NAME} is of another checkpoint, {lacking} {kept_file.REMEDY}"
            )
            return None
        return found

    def _find(self, names: list[str], settings: Settings) -> None:
        """Finds the images of these names in the data set of the run, where they still exist."""
        self._places = [None] * len(names)
        try:
            with offline():
                images = datasets.load(settings.data, settings.seed).train.images
        except UserError as error:
            self.notes.append(f"The training images themselves are not shown: {error}")
            return
        places = {features.name_of(images, i): i for i in range(len(images))}
        self._images, self._places = images, [places.get(name) for name in names]

    def nearest(self, queries: Float[np.ndarray, "m e"]) -> list[list[tuple[int, float]]]:
        """Returns for each feature the images most like it, as (number, cosine)."""
        if self._features is None or not len(queries):
            return [[] for _ in queries]
        found, cosines = neighbours.nearest(queries, self._features, NEAREST)
        return [
            list(zip(*pair, strict=True))
            for pair in zip(found.tolist(), cosines.tolist(), strict=True)
        ]

    def shown(self, number: int) -> bool:
        """Returns True if image `number` is in the data set, as far as its names say."""
        return 0 <= number < len(self._places) and self._places[number] is not None

    def thumbnail(self, number: int) -> bytes:
        """Returns a small JPEG of an image. Raises UserError if it is gone or cannot be read."""
        return self._small(number)

    def _thumbnail(self, number: int) -> bytes:
        if self._images is None or not self.shown(number):
            raise UserError(f"The run has no training image {number} that can be shown.")
        return small_jpeg(Picture.of(self._images[self._places[number] or 0]))
