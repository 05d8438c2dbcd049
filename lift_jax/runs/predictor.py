"""Predictions for new images by the classifier of a run.

lift_jax.Predictor("runs/photos").predict(["a.jpg", "b.jpg"], top_k=5)
"""

import glob
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageOps
from rich.console import Console
from rich.table import Table

from lift_jax.data import loader
from lift_jax.data.images import decode, views
from lift_jax.data.images.formats import SUFFIXES
from lift_jax.data.sources import folder_index
from lift_jax.data.sources.folder_index import Others
from lift_jax.data.types import Split
from lift_jax.errors import UserError
from lift_jax.evaluation.evaluator import ensemble_view
from lift_jax.evaluation.forward import make_predict
from lift_jax.models import tree
from lift_jax.output.plain import printable
from lift_jax.output.terminal import Terminal, track
from lift_jax.parallel.mesh import make_mesh, put_batch, replicated
from lift_jax.runs import restored
from lift_jax.storage.csv_files import write_csv
from lift_jax.storage.names import expand_user
from lift_jax.tuners import prompt_learning

Given = str | os.PathLike | Image.Image | UInt8[np.ndarray, "h w 3"]
SHOWN = 40  # images that are printed


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of an image, best first; none if it could not be read (`error`)."""

    labels: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    error: str = ""


@dataclass(frozen=True, eq=False)
class GivenImages:
    """Images as a caller gives them: paths, Pillow images or arrays (see `data.types.Images`)."""

    given: Sequence[Given] = field(repr=False)
    how: decode.Decoding

    def __len__(self) -> int:
        return len(self.given)

    def __getitem__(self, i: int) -> decode.Picture | UInt8[np.ndarray, "h w 3"]:
        image = self.given[i]
        if isinstance(image, str | os.PathLike):
            return decode.read_image(image, self.how)
        if isinstance(image, Image.Image):
            try:
                turned = ImageOps.exif_transpose(image) if self.how.exif else image
                return np.asarray(decode.to_rgb(turned))
            except (OSError, ValueError) as e:
                raise UserError(f"{self.name(i)} cannot be read: {e}.") from e
        array = np.asarray(image)
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
            raise UserError(
                f"{self.name(i)}: expected a path, a Pillow image or an array u8[h w 3], found "
                f"{array.dtype}{list(array.shape)}."
            )
        return array

    def name(self, i: int) -> str:
        image = self.given[i]
        return os.fspath(image) if isinstance(image, str | os.PathLike) else f"image {i}"

    def take(self, rows: Int[np.ndarray, "m"]) -> "GivenImages":
        return GivenImages([self.given[i] for i in rows.tolist()], self.how)


class Predictor:
    """The classifier of a run folder, for images of any size.

    Args:
        workdir: the folder of a run that has a checkpoint; the run may still be training.
        tte: True for test-time ensembling with the crops of the run's config, at several times the
            work; None for the run's own setting (test.tte).
        batch: batch size.

    Raises UserError as `restored.load` does.
    """

    def __init__(self, workdir: str | Path, *, tte: bool | None = None, batch: int = 64):
        if batch < 1:
            raise UserError(f"batch is {batch}; it must be at least 1.")
        found = restored.load(workdir)
        s, vision = found.settings, found.backbone.config.vision
        self.class_names = found.class_names
        self._view: views.View = views.TestTransform(vision.resolution, s.test.interpolation)
        if s.test.tte if tte is None else tte:
            self._view = ensemble_view(s.test, vision.resolution, s.train.min_area)
        self._how = decode.Decoding(s.data.decode == "fast", s.data.exif)
        self._mesh = make_mesh()
        self._batch = batch
        everywhere = replicated(self._mesh)
        graph, leaves = tree.flatten(found.classifier)
        placed = {path: jax.device_put(leaf[...], everywhere) for path, leaf in leaves.items()}
        graph, self._leaves = prompt_learning.encode_texts_once(graph, placed, everywhere)
        logits = make_predict(graph, vision)
        self._probabilities = jax.jit(
            lambda leaves, batch: jax.nn.softmax(logits(leaves, batch)), out_shardings=everywhere
        )

    def predict(
        self, images: Iterable[Given] | Given, top_k: int = 5, *, skip: bool = False
    ) -> list[Prediction]:
        """Returns the `top_k` likeliest classes of each image, in the order of the images.

        Images are paths (a folder stands for all images below it), Pillow images, or arrays
        u8[h w 3]. With `skip`, an image that cannot be read gets a Prediction with its `error`.
        Raises UserError for such an image without `skip`, for a folder without images, and for a
        `top_k` below 1.
        """
        if top_k < 1:
            raise UserError(f"top_k is {top_k}; it must be at least 1.")
        rows, errors = self._all(files(images), skip)
        best = np.argsort(-rows, axis=1, kind="stable")[:, :top_k]
        return [
            Prediction(error=errors[i])
            if errors[i]
            else Prediction(
                tuple(self.class_names[j] for j in best[i]), tuple(rows[i, best[i]].tolist())
            )
            for i in range(len(rows))
        ]

    def _all(
        self, given: Sequence[Given], skip: bool
    ) -> tuple[Float[np.ndarray, "n c"], list[str]]:
        """Returns the probabilities of every class, and why an image is unreadable, else ""."""
        split = Split(GivenImages(given, self._how), np.zeros(len(given)), skip=skip)
        devices = self._mesh.size  # fewer images than a batch are not padded to its full size
        batch = min(self._batch, 2 ** max(0, len(given) - 1).bit_length())
        batch = -(-batch // devices) * devices
        batches = loader.eval_batches(split, self._view, batch=batch)
        console = Terminal(stderr=True)
        shown = track(
            batches, "Looking", -(-len(given) // batch), console=console,
            disable=not console.is_terminal or len(given) <= batch,
        )  # fmt: skip
        found = [self._probabilities(self._leaves, put_batch(self._mesh, rows)) for rows in shown]
        whole = np.concatenate([np.zeros((0, len(self.class_names))), *map(np.asarray, found)])
        errors = [split.unreadable.get(split.images.name(i), "") for i in range(len(given))]
        return whole[: len(given)], errors


def files(images: Iterable[Given] | Given) -> list[Given]:
    """Returns the images, with every folder replaced by the images below it (see `gather`)."""
    return gather(images)[0]


def gather(images: Iterable[Given] | Given) -> tuple[list[Given], Others]:
    """Returns the images, with every folder replaced by the images below it, and the files of these
    folders that are not taken as images.

    Raises UserError for a folder or pattern without images, and for a path that does not exist.
    """
    if isinstance(images, str | os.PathLike | Image.Image) or (
        isinstance(images, np.ndarray) and images.ndim == 3
    ):
        images = [images]
    found: list[Given] = []
    others: list[Others] = []
    for image in images:
        if not isinstance(image, str | os.PathLike):
            found.append(image)
            continue
        path = expand_user(image)
        if not os.path.lexists(path) and glob.has_magic(str(path)):
            matching = sorted(glob.glob(str(path), recursive=True))
            if not matching:
                raise UserError(f"{path}: no image or folder matches this pattern.")
            below, passed_over = gather(matching)
        elif path.is_dir():
            below, passed_over = folder_index.images_below(path)
            if not below:
                said = folder_index.not_taken(passed_over)
                raise UserError(f"{path} holds no image ({', '.join(SUFFIXES)}). {said}".rstrip())
        elif path.exists():
            below, passed_over = [path], {}
        else:
            raise UserError(f"{path}: there is no such image or folder.")
        found += below
        others.append(passed_over)
    return found, folder_index.joined(others)


def show(names: Sequence[str], found: Sequence[Prediction], console: Console) -> None:
    """Prints the first images with their classes."""
    table = Table()
    table.add_column("image", overflow="fold")
    for rank in range(max((len(one.labels) for one in found), default=0) or 1):
        table.add_column("then" if rank else "class", overflow="fold")
    for name, one in list(zip(names, found, strict=True))[:SHOWN]:
        pairs = zip(one.labels, one.probabilities, strict=True)
        cells = [f"{label} {100 * share:.1f} %" for label, share in pairs] or ["cannot be read"]
        table.add_row(*map(printable, (name, *cells)))
    console.print(table)
    if len(found) > SHOWN:
        console.print(f"... and {len(found) - SHOWN:,} more.")


def write(path: str | Path, names: Sequence[str], found: Sequence[Prediction]) -> None:
    """Writes a CSV with one row for each image: its classes and probabilities, or its error."""
    most = max((len(one.labels) for one in found), default=0)
    ranks = [
        f"{column}_{rank}" for rank in range(1, most + 1) for column in ("class", "probability")
    ]
    rows = []
    for name, one in zip(names, found, strict=True):
        pairs = list(zip(one.labels, one.probabilities, strict=True)) or [(None, None)] * most
        rows.append([name, *(cell for pair in pairs for cell in pair), one.error])
    write_csv(path, ["image", *ranks, "error"], rows)
