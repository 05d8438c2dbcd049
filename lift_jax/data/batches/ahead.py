"""Reading ahead: threads and worker processes that make the batches before they are needed."""

import itertools
import math
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Protocol

import grain
import numpy as np
from absl import flags, logging
from rich.filesize import decimal

from lift_jax.data.batches.order import PADDING, Slots
from lift_jax.data.batches.rows import (
    Batch,
    BatchSource,
    EvalExample,
    TrainExample,
    dtype_of,
    shape_of,
)
from lift_jax.data.types import ArrayImages, Split
from lift_jax.errors import UserError
from lift_jax.parallel.entry import is_command

MAX_THREADS = 32  # Pillow decodes outside the interpreter's lock; the rest holds it
THREADS_A_WORKER = 4  # with many more, threads wait for the lock
MANY_VIEWS = 20_000  # least number of views for which worker processes, which take 5 s, pay off
# Workers hand batches over in shared memory: one in the making, two waiting, one in use. If it is
# full, the system kills the worker without a message.
SHARED, WAITING = Path("/dev/shm"), 4
MAX_BUFFER = 2**30  # most bytes of finished batches that wait for the step


class Batches(Protocol):
    """An iterator that reads ahead; `close` stops its threads and processes."""

    def __iter__(self) -> Iterator[Batch]: ...

    def __next__(self) -> Batch: ...

    def close(self) -> None: ...


def read_ahead(
    slots: Slots,
    example: TrainExample | EvalExample,
    start_step: int,
    process: int,
    processes: int,
    workers: int,
) -> Batches:
    """Yields the batches of a process from `start_step` on, made in threads or worker processes.

    Raises UserError if `slots.batch` does not divide by `processes`, for workers below -1, and for
    less shared memory than the workers need.
    """
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
    dataset = grain.MapDataset.source(BatchSource(slots, example, process, processes))
    dataset = dataset[start_step:]
    shape = shape_of(example.split, example.transform)
    size = share * math.prod(shape) * dtype_of(example.transform).itemsize
    if workers < 0:
        in_memory = isinstance(example.split.images, ArrayImages)
        rows = hasattr(example.transform, "dtype")  # rows of activations
        workers = 0 if in_memory or rows else useful_workers(share * len(dataset), size)
    workers = min(workers, len(dataset))
    reading = dataset.to_iter_dataset(read_options(size, max(1, workers)))
    if not workers:
        return _served(iter(reading), example.split)
    _check_shared_memory(size, workers)
    _ready_for_workers()
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


def useful_workers(views: int, size: int) -> int:
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
            "%s has %s free, enough for %d of %d worker processes: images may come too slowly. "
            "Start the container with more (docker run --shm-size=8g).",
            1, SHARED, decimal(free), workers * (workers > 1), wanted,
        )  # fmt: skip
    return workers if workers > 1 else 0


def _cpus() -> int:
    """Returns the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_options(size: int, readers: int) -> grain.ReadOptions:
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


def _ready_for_workers() -> None:
    """Sets what Grain and its worker processes take from here: flags, and filters of warnings."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain reads absl flags, which only absl.app would parse
    # the tracker frees what workers held when a program was ended, and warns of what it is for
    quiet = "ignore::UserWarning:multiprocessing.resource_tracker"
    if quiet not in (given := os.environ.get("PYTHONWARNINGS", "")):
        os.environ["PYTHONWARNINGS"] = f"{given},{quiet}".strip(",")


def _check_shared_memory(size: int, workers: int) -> None:
    """Raises UserError if there is less shared memory than so many workers need."""
    need = WAITING * size * workers
    if SHARED.is_dir() and (free := shutil.disk_usage(SHARED).free) < need:
        raise UserError(
            f"data.workers={workers} needs {decimal(need)} of shared memory ({SHARED}), of "
            f"which {decimal(free)} are free. Set data.workers=0 (threads), or start the "
            "container with more (docker run --shm-size=8g)."
        )
