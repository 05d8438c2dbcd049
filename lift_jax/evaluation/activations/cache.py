"""The cache of activations: the inputs of the lowest tuned block, computed once for each image.

Without augmentation the blocks below give the same activations in every epoch, for every seed and
every run of a sweep. They are kept in files in the user's cache folder. Training, tests and the
initialisation of heads read these files instead of images.
"""

import contextlib
import hashlib
import math
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Array
from rich.console import Console
from rich.filesize import decimal

from lift_jax.data.fingerprint import fingerprint_images
from lift_jax.data.images.views import TestTransform
from lift_jax.data.types import Split
from lift_jax.errors import DiskError, UserError
from lift_jax.evaluation.activations.reading import ActivationRows, IdentityView, Reading
from lift_jax.evaluation.activations.tower_outputs import tower_outputs
from lift_jax.evaluation.forward import normalise
from lift_jax.models import tree
from lift_jax.models.backbone import Tower
from lift_jax.storage.cache import cache_folder
from lift_jax.storage.formats.row_file import RowFile, make_room
from lift_jax.tuners.lowest_block import lowest_tuned_block

VERSION = 2  # version of the content of the files


@dataclass(frozen=True)
class Cache:
    """The cache of activations of one backbone.

    Attributes:
        gigabytes: largest size of all files together; 0 keeps no files.
        fingerprint: fingerprint of the untuned backbone.
        mesh: the devices.
        batch: batch size over all devices, when activations are computed.
        workers: number of processes that decode images (see data.workers).
        console: for messages and progress bars.
    """

    gigabytes: float
    fingerprint: str
    mesh: Mesh
    batch: int
    workers: int
    console: Console

    def read(
        self, visual: Tower, tuned: Iterable[str], split: Split, view: TestTransform
    ) -> Reading:
        """Returns the activations of a split that enter the lowest tuned block.

        They are computed if no file holds them yet. Returns the images of the split instead if the
        first block is tuned, if the cache is off, or, with a message, if the rows do not fit.

        Args:
            visual: the image tower.
            tuned: paths of the tuned leaves in a classifier, whose tower is at "visual".
            split: images and labels.
            view: view of the images.

        Raises UserError if the file does not hold what was written.
        """
        images = Reading(split, view, 0, self.workers)
        if not (len(split) and self.may_serve(visual, tuned)):
            return images
        k = lowest_tuned_block(visual, tuned)
        image_fingerprint = fingerprint_images(split.images)
        if not _on_all_processes(image_fingerprint is not None):
            self.console.print(
                "Activations: not kept, because the images have no files of their own."
            )
            return images

        file = self._file(visual, k, split, view, image_fingerprint)
        rows = file.read()
        if _on_all_processes(rows is not None):
            self.console.print(f"Activations: {summary(file)}, as they were kept.", soft_wrap=True)
        else:
            rows = self._compute(visual, k, images, file)
        if rows is None:
            return images
        with contextlib.suppress(OSError):  # deleted, or owned by another user
            os.utime(file.path)  # `make_room` deletes the least recently used files first
        activations = Split(ActivationRows(rows, file.path), split.labels)
        return Reading(activations, IdentityView(file.shape[1:], file.dtype), k, 0)

    def may_serve(self, visual: Tower, tuned: Iterable[str]) -> bool:
        """Returns False if `read` returns images whatever the split: the cache is off, or the first
        block is tuned."""
        on = self.gigabytes and self.fingerprint
        return bool(on and lowest_tuned_block(visual, tuned))

    def _file(
        self, visual: Tower, k: int, split: Split, view: TestTransform, images: str | None
    ) -> RowFile:
        """Returns the file for the inputs of block `k`; `images` is the images' fingerprint."""
        graph, arrays = tree.split(visual)
        one = jax.ShapeDtypeStruct((1, *view.shape), np.uint8)
        row = jax.eval_shape(lambda a, x: _inputs_of(k)(tree.merge(graph, a), x), arrays, one)
        shape = len(split), *row.shape[1:]
        depends_on = (
            VERSION, self.fingerprint, k, view, shape, row.dtype.name, images,
            sorted({leaf.dtype.name for leaf in arrays.values()}),
            jax.__version__, jax.default_backend(),
            *([] if visual.precision is None else [str(visual.precision)]),
        )  # fmt: skip
        key = hashlib.sha256(repr(depends_on).encode()).hexdigest()
        return RowFile(cache_folder() / "features" / f"{key}.rows", key, shape, row.dtype)

    def _compute(self, visual: Tower, k: int, images: Reading, file: RowFile) -> np.ndarray | None:
        """Computes the inputs of block `k` into a file and returns them; None if they do not fit.

        Raises UserError if the file does not hold what was written.
        """
        if not _on_all_processes(self._has_room(file)):
            return None
        folder = file.path.parent
        self.console.print(f"Activations: {summary(file)}, kept in {folder}.", soft_wrap=True)
        computed = tower_outputs(
            _inputs_of(k), visual, images, "Activations", mesh=self.mesh, batch=self.batch,
            console=self.console,
        )  # fmt: skip
        if not _on_all_processes(self._write(file, computed)):
            return None
        rows = file.read()
        if rows is None:
            raise UserError(
                f"{file.path} does not hold the activations that were just written: the disk may "
                "be faulty, or another program changes the folder. Set data.features_gb=0."
            )
        return rows

    def _has_room(self, file: RowFile) -> bool:
        """Returns True if a file fits, after deleting the least recently used files.

        Otherwise prints the reason, and what to do.
        """
        folder, size = file.path.parent, file.size
        advice = "Set data.features_gb higher" if size > self.gigabytes * 1e9 else ""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not advice and size > shutil.disk_usage(folder).free:
                advice = f"Free space in {folder}"
            elif not os.access(folder, os.W_OK):
                advice = f"Make {folder} writable"
        except OSError as e:
            advice = f"Make {folder} writable ({e.strerror})"
        if advice:
            self.console.print(
                f"Activations: not kept ({summary(file)}; data.features_gb={self.gigabytes:g}), "
                f"images are read each time. {advice} to compute them once.", soft_wrap=True,
            )  # fmt: skip
            return False
        make_room(folder, self.gigabytes * 1e9 - size)
        return True

    def _write(self, file: RowFile, computed: Iterator[tuple[np.ndarray, Any]]) -> bool:
        """Writes the rows to a file and prints the pace.

        Returns False, and keeps no file, if it cannot be written, or if rows are missing because
        some images cannot be read.
        """
        count, begin = file.shape[0], time.monotonic()
        try:
            done = file.write(rows for rows, _ in computed)
        except DiskError as e:
            if jax.process_count() > 1:
                deque(computed, maxlen=0)  # the others wait for the share of this process
            self.console.print(
                f"Activations: not kept, images are read each time. {e}",
                markup=False, soft_wrap=True,
            )  # fmt: skip
            return False
        seconds = time.monotonic() - begin
        rate = f"{done / seconds:,.0f} images/s"
        lost = "" if done == count else f"; not kept, for {count - done} images cannot be read"
        self.console.print(f"Activations: computed in {seconds:.1f} s ({rate}){lost}.")
        return done == count


def summary(file: RowFile) -> str:
    """Returns the numbers of images and values in a file, and its size, for messages."""
    count, *row = file.shape
    return f"{count:,} images, {math.prod(row):,} numbers each: {decimal(file.size)}"


def _inputs_of(k: int) -> Callable[[Tower, Array], Array]:
    """Returns the function from a tower and images to the inputs of block `k`."""

    def lower(tower: Tower, images: Array) -> Array:
        return tower.lower(normalise(images, tower.config), k)

    return lower


def _on_all_processes(here: bool) -> bool:
    """Returns True if `here` is True in all processes, so that they take the same branch."""
    if jax.process_count() == 1:
        return here
    return bool(multihost_utils.process_allgather(np.array(here)).all())
