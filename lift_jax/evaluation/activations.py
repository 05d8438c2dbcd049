"""Activations that are computed once: what enters the lowest block that holds something tuned.

Where images are seen as they are, without augmentation, everything below that block gives the same
numbers in every epoch, seed and cell of a sweep. They are kept in files in the user's cache folder,
and training, tests and the starts of heads read these instead of images.
"""

import contextlib
import hashlib
import math
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Array, Int
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from lift_jax.data import loader
from lift_jax.data.fingerprint import fingerprint_images
from lift_jax.data.images.views import TestTransform
from lift_jax.data.types import Split
from lift_jax.errors import UserError
from lift_jax.evaluation.forward import Batch, normalise, pixels
from lift_jax.models import tree
from lift_jax.models.backbone import Tower
from lift_jax.models.resnet import ResNet
from lift_jax.parallel.mesh import put_batch, replicated
from lift_jax.storage.cache import cache_folder

VERSION = 2  # of what the files hold
LEFT = 86400  # seconds after which an unfinished file belongs to a run that was killed
TRAILER = 8 + 64  # bytes behind the rows: their CRC-32 and the key, both in hexadecimal


def first_tuned(visual: Tower, tuned: Iterable[str]) -> int:
    """The lowest block that the gradient reaches: below it nothing is tuned.

    `tuned` are paths in a classifier; heads count as above the tower. Returns the number of blocks
    where nothing in the tower is tuned, 0 where the first block or the stem is. A ResNet with
    something tuned gives 0, for it is not run in parts.
    """
    depth = len(visual.blocks)
    inside = [tree.parts(path)[1:] for path in tuned if path.startswith("visual/")]
    if isinstance(visual, ResNet):
        return 0 if inside else depth

    def block(path: tuple[str | int, ...]) -> int:
        if path[0] == "blocks":
            return int(path[1])
        # the last block leaves CLS alone, so what is behind it begins with that block
        return depth - 1 if path[0] in ("ln_post", "pool") else 0

    return min(map(block, inside), default=depth)


@dataclass(frozen=True, eq=False)
class Rows:
    """Activations in the place of images; each is its own view."""

    rows: np.ndarray
    file: Path

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> np.ndarray:
        return self.rows[i]

    def name(self, i: int) -> str:
        return f"{self.file}, row {i}"

    def take(self, rows: Int[np.ndarray, "m"]) -> "Rows":
        return Rows(self.rows[rows], self.file)


@dataclass(frozen=True)
class AsIs:
    """The view of a row: itself, whatever the draw."""

    shape: tuple[int, ...]
    dtype: np.dtype

    def __call__(self, row: np.ndarray, rng: Any = None, epoch: int = 0) -> np.ndarray:
        return row


class Reading(NamedTuple):
    """What a loader reads: images through a view, or rows and the block that they enter."""

    split: Split
    view: Any
    start: int
    workers: int


@dataclass(frozen=True)
class Cache:
    """Where activations come from, and how many may be kept.

    Attributes:
        gigabytes: that all files together may have; 0: nothing is kept.
        fingerprint: of the untuned backbone.
        batch: images at once over all devices, when activations are computed.
        workers: processes that decode these images.
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
        """The split as what enters the lowest tuned block, computed where no file has it yet.

        It is the split itself where the first block is tuned, the cache is off, or the rows do not
        fit, which is said. `tuned` are paths in a classifier, its tower at "visual".
        """
        k, images = first_tuned(visual, tuned), Reading(split, view, 0, self.workers)
        if not (k and self.gigabytes and self.fingerprint and len(split)):
            return images
        seen = fingerprint_images(split.images)
        if not _everywhere(seen is not None):
            self.console.print("Activations: not kept, for the images have no files of their own.")
            return images

        def lower(tower: Tower, rows: Array) -> Array:
            return tower.lower(normalise(rows, tower.config), k)

        graph, leaves = tree.flatten(visual)
        arrays = {path: leaf[...] for path, leaf in leaves.items()}
        one = jax.ShapeDtypeStruct((1, *view.shape), np.uint8)
        kind = jax.eval_shape(lambda a, rows: lower(tree.merge(graph, a), rows), arrays, one)
        shape, size = (len(split), *kind.shape[1:]), len(split) * kind.size * kind.dtype.itemsize
        told = f"{len(split):,} images, {kind.size:,} numbers each: {size / 1e6:,.1f} MB"
        how = (
            VERSION, self.fingerprint, k, view, shape, kind.dtype.name, seen,
            sorted({leaf.dtype.name for leaf in arrays.values()}),
            jax.__version__, jax.default_backend(),
        )  # fmt: skip
        key = hashlib.sha256(repr(how).encode()).hexdigest()
        file = cache_folder() / "features" / f"{key}.rows"
        rows = read_rows(file, key, shape, kind.dtype)
        if not _everywhere(rows is not None):
            if not _everywhere(self._has_room(file.parent, size, told)):
                return images
            self.console.print(f"Activations: {told}, kept in {file.parent}.", soft_wrap=True)
            found = self.through(lower, visual, images, "Activations")
            if not self._write(file, key, len(split), found):
                return images
            rows = read_rows(file, key, shape, kind.dtype)
            if rows is None:
                raise UserError(
                    f"{file} is not what was written a moment ago: the disk may be faulty, or "
                    "another program changes the folder. Set data.features_gb=0."
                )
        else:
            self.console.print(f"Activations: {told}, as they were kept.", soft_wrap=True)
        assert rows is not None
        with contextlib.suppress(OSError):  # gone, or another user's
            os.utime(file)  # what was not used for longest is the first to go
        return Reading(Split(Rows(rows, file), split.labels), AsIs(shape[1:], kind.dtype), k, 0)

    def through(
        self,
        function: Callable[[Tower, Array], Array],
        visual: Tower,
        reading: Reading,
        doing: str,
    ) -> Iterator[tuple[np.ndarray, Int[np.ndarray, "m"]]]:
        """Yields the function's rows of what is read, in order, and their labels.

        Every process gets all of them. A bar shows `doing` and images a second.
        """
        split, view, _, workers = reading
        graph, leaves = tree.flatten(visual)
        arrays = {path: leaf[...] for path, leaf in leaves.items()}

        def run(arrays: tree.Tree, batch: Batch) -> tuple[Array, ...]:
            tower = tree.merge(graph, arrays)
            rows = function(tower, pixels(batch, tower.config))
            return rows, batch["label"], batch["mask"], batch["place"]

        gather = jax.jit(run, out_shardings=replicated(self.mesh))
        process, processes = jax.process_index(), jax.process_count()
        batches = loader.eval_batches(
            split, view, batch=self.batch, process=process, processes=processes, workers=workers
        )
        # the loader strides over a batch, and devices hold what their own process has read
        places = {"place": np.arange(process, self.batch, processes, dtype=np.int32)}
        columns = TextColumn(doing), BarColumn(), MofNCompleteColumn()
        rate = TextColumn("{task.fields[rate]:,.0f} images/s")
        with Progress(
            *columns, rate, console=self.console, transient=True,
            disable=not self.console.is_terminal,
        ) as bar:  # fmt: skip
            task, begin, done = bar.add_task("", total=len(split), rate=0.0), time.monotonic(), 0
            for batch in batches:
                placed = put_batch(self.mesh, batch | places)
                rows, labels, real, place = map(np.asarray, gather(arrays, placed))
                order = np.argsort(place)
                order = order[real[order]]
                yield rows[order], labels[order]
                done += len(order)
                bar.update(task, completed=done, rate=done / (time.monotonic() - begin))

    def _has_room(self, folder: Path, size: int, told: str) -> bool:
        """Whether so many bytes fit; for the budget, files not used for longest are deleted."""
        plain = "Set data.features_gb higher" if size > self.gigabytes * 1e9 else ""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not plain and size > shutil.disk_usage(folder).free:
                plain = f"Free space in {folder}"
            elif not os.access(folder, os.W_OK):
                plain = f"Make {folder} writable"
        except OSError as e:
            plain = f"Make {folder} writable ({e.strerror})"
        if plain:
            self.console.print(
                f"Activations: not kept ({told}; data.features_gb={self.gigabytes:g}), images are "
                f"read each time. {plain} to compute them once.",
                markup=False, soft_wrap=True,
            )  # fmt: skip
            return False
        make_room(folder, self.gigabytes * 1e9 - size)
        return True

    def _write(
        self, file: Path, key: str, count: int, found: Iterator[tuple[np.ndarray, Any]]
    ) -> bool:
        """Writes the rows, unless images among them are unreadable; says at which rate."""
        begin, done, crc = time.monotonic(), 0, 0
        with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".partial", delete=False) as out:
            try:
                for rows, _ in found:
                    content = np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data
                    out.write(content)
                    done, crc = done + len(rows), zlib.crc32(content, crc)
                out.write(f"{crc:08x}{key}".encode())
                out.flush()
                os.fsync(out.fileno())
                if done == count:
                    os.replace(out.name, file)
            except OSError as e:
                raise UserError(
                    f"Cannot write activations to {file.parent}: {e.strerror or e}. Free space "
                    "there, or set data.features_gb=0."
                ) from e
            finally:
                Path(out.name).unlink(missing_ok=True)
        seconds = time.monotonic() - begin
        rate = f"{done / seconds:,.0f} images/s"
        lost = "" if done == count else f"; not kept, for {count - done} images cannot be read"
        self.console.print(f"Activations: computed in {seconds:.1f} s ({rate}){lost}.")
        return done == count


def make_room(folder: Path, most: float) -> None:
    """Deletes the files not used for longest until they have at most so many bytes together."""
    files = []
    for file in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another run may delete it meanwhile
            files.append((file.stat().st_mtime, file.stat().st_size, file))
    total = sum(size for _, size, _ in files)
    for used, size, file in sorted(files):
        if total > most and (file.suffix == ".rows" or time.time() - used > LEFT):
            file.unlink(missing_ok=True)
            total -= size


def read_rows(file: Path, key: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray | None:
    """The rows of a file, memory-mapped; None if it is absent, damaged or of another key."""
    size = math.prod(shape) * dtype.itemsize
    try:
        if file.stat().st_size != size + TRAILER:
            return None
        with open(file, "rb") as opened:
            opened.seek(size)
            trailer = opened.read()
        whole = np.memmap(file, np.uint8, "r", shape=(size,))
    except OSError:
        return None
    rows = whole.view(dtype).reshape(shape)
    return rows if trailer == f"{zlib.crc32(whole.data):08x}{key}".encode() else None


def _everywhere(here: bool) -> bool:
    """Whether it is so in all processes, which must go the same way."""
    if jax.process_count() == 1:
        return here
    return bool(multihost_utils.process_allgather(np.array(here)).all())
