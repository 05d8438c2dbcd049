"""Batches in an order that is a pure function of (seed, epoch, example index).

A run is a line of numbered slots, `steps * batch` for each epoch. A slot names an epoch and an
example, or padding at the end of an epoch; with class sampling also how often the epoch has had
that example before. Step s takes the slots [s * batch, (s + 1) * batch), and
process p of P takes every P-th of them from the p-th on. So a run can start at any step without
reading earlier ones, and its global batches do not depend on the number of processes, workers and
threads.
"""

import functools
import itertools
import math
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, Protocol

import grain
import numpy as np
from absl import flags, logging
from jaxtyping import Int

from lift_jax.data.images import on_device
from lift_jax.data.images.views import RandomCrops, TrainTransform, View
from lift_jax.data.sampling import ClassDraws
from lift_jax.data.types import ArrayImages, Split
from lift_jax.errors import UserError
from lift_jax.parallel.entry import is_command

Batch = dict[str, np.ndarray]


class Batches(Protocol):
    """An iterator that reads ahead; `close` stops its threads and processes."""

    def __iter__(self) -> Iterator[Batch]: ...

    def __next__(self) -> Batch: ...

    def close(self) -> None: ...


MAX_THREADS = 32  # Pillow decodes outside the interpreter's lock; the rest holds it
# The rest takes 0.6 ms for each view, so the threads of one process make at most 1,600 views a
# second. Two cores make 500.
THREADS_A_WORKER = 4
MANY_VIEWS = 20_000  # least number of views for which worker processes, which take 5 s, pay off
# Workers hand batches over in shared memory: one in the making, two waiting, one in use. If it is
# full, the system kills the worker without a message.
SHARED, WAITING = Path("/dev/shm"), 4
MAX_BUFFER = 2**30  # most bytes of finished batches that wait for the step


def steps_per_epoch(n: int, batch: int) -> int:
    """Returns how many batches an epoch of n examples takes; the last may be partial."""
    return math.ceil(n / batch)


def train_batches(
    split: Split,
    transform: TrainTransform,
    *,
    seed: int,
    epochs: int,
    batch: int,
    start_step: int = 0,
    process: int = 0,
    processes: int = 1,
    workers: int = 0,
    sampling: str = "natural",
) -> Batches:
    """Yields this process's share of every training batch from `start_step` (0-based) on.

    With b = batch // processes, a batch holds `image` u8[b r r 3], `label` i32[b] and `mask`
    bool[b]. The last batch of an epoch is padded with zeros where `mask` is False, so that shapes
    never change. Images smaller than the view stay whole, u8[b h w 3], beside `cut` i32[b 2 6] (see
    `images.on_device`). The iterator reads ahead in threads, or in `workers` processes (-1: as many
    as the machine can use, see `_useful_workers`); its `close()` stops them.

    An epoch holds every image once with sampling "natural", and otherwise as many draws
    (`data.sampling`), each with a view of its own.

    Raises UserError if `batch` does not divide by `processes`, and in `next` if an image cannot be
    read.
    """
    draws = None if sampling == "natural" else ClassDraws(split.labels, sampling, seed)
    slots = _Slots(len(split), batch, epochs, seed, draws)
    draw = _TrainExample(split, transform, seed)
    return _batches(slots, draw, start_step, process, processes, workers)


def eval_batches(
    split: Split,
    transform: View,
    *,
    seed: int = 0,
    batch: int,
    process: int = 0,
    processes: int = 1,
    workers: int = 0,
) -> Batches:
    """Yields this process's share of every batch of a split, once and in order.

    Batches are like those of `train_batches`; for five crops `image` is u8[b 5 r r 3]. They also
    hold `row` i32[b], the index in the split, -1 for padding. Every process gets the same number of
    batches. Random crops depend only on `seed` and the index of the example.
    """
    slots = _Slots(len(split), batch, epochs=1, seed=None)
    return _batches(slots, _EvalExample(split, transform, seed), 0, process, processes, workers)


def eval_padding(split: Split, transform: View) -> dict[str, np.ndarray]:
    """Returns a padded row of the batches of `eval_batches`, which shows their keys and shapes."""
    image = np.empty(_shape(split, transform), _dtype(transform))
    row = {"image": image} | _EvalExample(split, transform, 0).row(PADDING, image)
    return {key: np.asarray(value) for key, value in row.items() if key != "bad"}


# --- the order of examples ---

PADDING = -1
Slot = tuple[int, int, int]  # epoch, example index or PADDING, earlier draws in the same epoch
REPEAT = 2  # spawn key of the views of repeated draws


@functools.lru_cache(maxsize=4)
def _epoch_order(seed: int, epoch: int, n: int) -> Int[np.ndarray, "n"]:
    # the spawn key keeps this stream apart from the draws of the examples
    sequence = np.random.SeedSequence((seed, epoch), spawn_key=(0,))
    return np.random.default_rng(sequence).permutation(n)


@dataclass(frozen=True)
class _Slots:
    """The slots of a run by number; examples come in order if seed is None."""

    n: int
    batch: int
    epochs: int
    seed: int | None
    draws: ClassDraws | None = None

    def __len__(self) -> int:
        return self.epochs * steps_per_epoch(self.n, self.batch) * self.batch

    def __getitem__(self, index: int) -> Slot:
        epoch, place = divmod(index, steps_per_epoch(self.n, self.batch) * self.batch)
        if place >= self.n:
            return epoch, PADDING, 0
        if self.seed is None:
            return epoch, place, 0
        if self.draws is not None:
            image, repeat = self.draws.epoch(epoch)[place].tolist()
            return epoch, image, repeat
        return epoch, int(_epoch_order(self.seed, epoch, self.n)[place]), 0


@dataclass(frozen=True)
class _TrainExample:
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
class _EvalExample:
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
class _BatchSource:
    """The batches of a process by number, each made whole.

    Grain spends as much on an element as a small image takes, so an element is a batch.
    """

    slots: _Slots
    example: _TrainExample | _EvalExample
    process: int
    processes: int

    def __len__(self) -> int:
        return len(self.slots) // self.slots.batch

    def __getitem__(self, index: int) -> Batch:
        begin, end = index * self.slots.batch, (index + 1) * self.slots.batch
        numbers = range(begin + self.process, end, self.processes)
        split, transform = self.example.split, self.example.transform
        # images are written here one by one; rows of their own would take fresh memory and a copy
        images = np.empty((len(numbers), *_shape(split, transform)), _dtype(transform))
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


def _shape(split: Split, transform: TrainTransform | View) -> tuple[int, ...]:
    """Returns the shape of one image as it is sent to the device."""
    return on_device.sent_shape(split.images, transform) or transform.shape


def _dtype(transform: TrainTransform | View) -> np.dtype:
    """Returns uint8 for images, and the dtype of rows of activations (`evaluation.activations`)."""
    return np.dtype(getattr(transform, "dtype", np.uint8))


# --- reading ahead ---


def _batches(
    slots: _Slots,
    example: _TrainExample | _EvalExample,
    start_step: int,
    process: int,
    processes: int,
    workers: int,
) -> Batches:
    if slots.batch < 1 or slots.batch % processes:
        raise UserError(
            f"A batch of {slots.batch} cannot be shared by {processes} processes: expected a "
            f"multiple of {processes} (train.batch, test.batch)."
        )
    if workers < -1:
        raise UserError(
            f"data.workers counts processes: expected 0 or more, or -1, found {workers}."
        )
    if not 0 <= process < processes or start_step < 0:
        raise ValueError(f"{process=}, {processes=}, {start_step=}")
    share = slots.batch // processes
    dataset = grain.MapDataset.source(_BatchSource(slots, example, process, processes))
    dataset = dataset[start_step:]
    shape = _shape(example.split, example.transform)
    size = share * math.prod(shape) * _dtype(example.transform).itemsize
    if workers < 0:
        in_memory = isinstance(example.split.images, ArrayImages)
        rows = hasattr(example.transform, "dtype")  # rows of activations
        workers = 0 if in_memory or rows else _useful_workers(share * len(dataset), size)
    workers = min(workers, len(dataset))
    reading = dataset.to_iter_dataset(_read_options(size, max(1, workers)))
    if not workers:
        return _served(iter(reading), example.split)
    _prepare_workers(size, workers)
    options = grain.MultiprocessingOptions(num_workers=workers)
    reading = iter(reading.mp_prefetch(options, worker_init_fn=_end_with_parent).map(_own))
    return _served(_started(reading), example.split)


def _started(reading: Batches) -> Generator[Batch]:
    """Yields all batches; starts the workers in a thread that never gets Ctrl-C.

    Ctrl-C reaches all processes of a terminal. A process inherits from the thread that starts it
    whether it hears signals. Workers leave Ctrl-C to the main process, which can end at once, since
    it only waits for the thread; while a worker imports its modules it would print a trace.
    """
    resource_tracker.ensure_running()  # else it would be started in the thread and unblock signals

    def first() -> list[Batch]:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        return list(itertools.islice(reading, 1))

    try:
        pool = ThreadPoolExecutor(1)
        yield from pool.submit(first).result()
        pool.shutdown()
        yield from reading
    finally:
        reading.close()


def _served(reading: Batches, split: Split) -> Generator[Batch]:
    """Yields the batches; stops all reading at their end or when it is closed.

    Unreadable images, which are masked in the batches, are noted in `split.unreadable`.
    """
    try:
        for batch in reading:
            bad = set(batch.pop("bad").tolist()) - {PADDING} if split.skip else set()
            for i in bad:
                if split.images.name(i) not in split.unreadable:
                    split.unreadable[split.images.name(i)] = _cause(split, i)
            yield batch
    finally:
        reading.close()


def _cause(split: Split, i: int) -> str:
    """Tries again to read image i, which perhaps failed in another process; returns the error."""
    try:
        np.asarray(split.images[i])
        return "it could be read at a second try"
    except UserError as error:
        return str(error)


def _useful_workers(views: int, size: int) -> int:
    """Returns the number of worker processes that pay off for so many views, `size` bytes a batch.

    Returns 0 on a small machine, for few views, and outside the commands of this package: a worker
    process imports the main module, and only that of the commands is known to run nothing then.
    """
    if views < MANY_VIEWS or not is_command():
        return 0
    wanted = _cpus() // THREADS_A_WORKER
    workers, free = wanted, 0
    if SHARED.is_dir():
        free = shutil.disk_usage(SHARED).free
        workers = min(workers, free // (WAITING * size))
    if workers < wanted and wanted > 1:
        logging.log_first_n(
            logging.WARNING,
            "%s has %d MiB free, enough for %d of %d worker processes: images may come too slowly. "
            "Start the container with more (docker run --shm-size=8g).",
            1, SHARED, free >> 20, workers * (workers > 1), wanted,
        )  # fmt: skip
    return workers if workers > 1 else 0


def _cpus() -> int:
    """Returns the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _read_options(size: int, readers: int) -> grain.ReadOptions:
    """Returns threads and buffer for each of `readers` processes with batches of `size` bytes.

    Each thread makes a whole batch, so there are at most as many threads as batches in the buffer.
    """
    threads = max(1, min(_cpus() // readers, MAX_THREADS))
    buffer = max(2, min(threads + 2, MAX_BUFFER // (size * readers)))
    return grain.ReadOptions(num_threads=min(threads, buffer), prefetch_buffer_size=buffer)


def _own(batch: Batch) -> Batch:
    """Copies a worker's batch out of shared memory, which is scarce and warns at exit."""
    return {key: np.array(value) for key, value in batch.items()}


def _end_with_parent(worker: int, workers: int) -> None:
    """Ends this worker process when the one that started it is gone, also if that was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _prepare_workers(size: int, workers: int) -> None:
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain reads absl flags, which only absl.app would parse
    # the tracker frees what workers held when a program was ended, and warns of what it is for
    quiet = "ignore::UserWarning:multiprocessing.resource_tracker"
    if quiet not in (given := os.environ.get("PYTHONWARNINGS", "")):
        os.environ["PYTHONWARNINGS"] = f"{given},{quiet}".strip(",")
    need = WAITING * size * workers
    if SHARED.is_dir() and (free := shutil.disk_usage(SHARED).free) < need:
        raise UserError(
            f"data.workers={workers} needs {need / 2**20:.0f} MiB of shared memory ({SHARED}), of "
            f"which {free / 2**20:.0f} MiB are free. Set data.workers=0 (threads), or start the "
            "container with more (docker run --shm-size=8g)."
        )
