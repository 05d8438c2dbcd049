"""The monitor of training, a few steps behind the device: losses, pace, and waiting for data."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import jax
import numpy as np

from lift_jax.errors import UserError

LAG = 2  # steps by which the device may be ahead of the log, so that it never waits for the host
FADE = 0.95  # weight of the past in the pace, which so averages over about 20 steps


@dataclass(frozen=True)
class StepRecord:
    """One training step, as it is logged.

    Attributes:
        step: its number in the run, counted from 1.
        epoch: the epoch that it belongs to, counted from 0.
        loss: loss of its batch.
        lr: its learning rate.
        images_per_second: pace over the last steps.
        wait: share of the time in which the device had no batch, over the last steps.
        seconds: training time so far, over all continuations of the run.
    """

    step: int
    epoch: int
    loss: float
    lr: float
    images_per_second: float
    wait: float
    seconds: float


@dataclass(frozen=True)
class Course:
    """The course of a run: its length, and the learning rate of each step.

    Attributes:
        images: number of images in the training split.
        batch: batch size.
        steps_per_epoch: number of batches in an epoch.
        rates: learning rate of each step.
        start: number of steps that are done.
    """

    images: int
    batch: int
    steps_per_epoch: int
    rates: Sequence[float] | np.ndarray
    start: int

    @property
    def total(self) -> int:
        """Returns the number of steps of the whole run."""
        return len(self.rates)

    def epoch_and_images(self, step: int) -> tuple[int, int]:
        """Returns the epoch of a step, counted from 0, and the number of images in its batch."""
        epoch, earlier = divmod(step - 1, self.steps_per_epoch)
        return epoch, min(self.batch, self.images - earlier * self.batch)

    def ends_epoch(self, step: int) -> bool:
        """Returns True if a step is the last of its epoch."""
        return step % self.steps_per_epoch == 0


class Monitor:
    """A monitor that hands out batches, and records each step once the device has done it.

    Args:
        course: the course of the run.
        record: called with each step, in order.
        fail: turns a message about a loss that is not finite into the error to raise.
        seconds: training time before this process started.
    """

    def __init__(
        self,
        course: Course,
        record: Callable[[StepRecord], None],
        fail: Callable[[str], UserError],
        seconds: float,
    ):
        self._course, self._record, self._fail, self._seconds = course, record, fail, seconds
        self._observer = ThreadPoolExecutor(1)
        # steps whose loss is not yet read; when their batch was asked for, and when it came
        self._ahead: deque[tuple[int, Future[tuple[float, float]], float, float]] = deque()
        self._recent = np.zeros(3)  # images, seconds, and seconds without a batch, fading out
        self._clock = time.monotonic()  # when the device finished the previous step
        self._asked = self._came = self._clock

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(self, *exception: object) -> None:
        self._observer.shutdown()

    def next_batch(self, batches: Iterator[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Returns the next batch, and measures the time spent waiting for it."""
        self._asked = time.monotonic()
        batch = next(batches)
        self._came = time.monotonic()
        return batch

    def add(self, step: int, loss: jax.Array) -> None:
        """Takes the loss of a step that is in progress; records the step that is `LAG` before it.

        Raises the error of `fail` if the recorded loss is not finite.
        """

        def done() -> tuple[float, float]:
            return float(loss), time.monotonic()  # float() waits for the device

        self._ahead.append((step, self._observer.submit(done), self._asked, self._came))
        if len(self._ahead) > LAG:
            self._report()

    def finish(self) -> None:
        """Records all steps that are in progress. Raises the same error as `add`."""
        while self._ahead:
            self._report()

    def _report(self) -> None:
        """Records the oldest step that is in progress."""
        step, observed, asked, came = self._ahead.popleft()
        loss, now = observed.result()
        # Waiting counts only from when the device had nothing left to do.
        waited = max(0.0, came - max(asked, self._clock))
        elapsed, self._clock = now - self._clock, now
        self._seconds += elapsed
        epoch, images = self._course.epoch_and_images(step)
        # The first step includes the compilation, so the pace forgets it at once.
        fade = FADE if step > self._course.start + 2 else 0.0
        self._recent = self._recent * fade + (images, elapsed, waited)
        if not np.isfinite(loss):
            raise self._fail(f"The loss of step {step} (epoch {epoch + 1}) is {loss}")
        recent_images, recent_seconds, without_batch = self._recent
        self._record(
            StepRecord(
                step=step,
                epoch=epoch,
                loss=loss,
                lr=float(self._course.rates[step - 1]),
                images_per_second=recent_images / recent_seconds,
                wait=min(1.0, without_batch / recent_seconds),
                seconds=self._seconds,
            )
        )
