"""Follows training a few steps behind the device: losses, pace, and waiting for data."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import jax
import numpy as np

from lift_jax.errors import UserError

LAG = 2  # steps that the device may be ahead of the log, so that reading a loss waits for nothing
FADE = 0.95  # of the pace, from step to step: it averages over about 20 steps


@dataclass(frozen=True)
class StepRecord:
    """One training step, as it is logged. Steps count from 1, epochs from 0.

    Attributes:
        step: its number in the run.
        epoch: that it belongs to.
        loss: of its batch.
        lr: learning rate.
        images_per_second: over the last steps.
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
class Plan:
    """The length of a run.

    Attributes:
        images: in the training split.
        batch: batch size.
        steps_per_epoch: number of batches in an epoch.
        rates: learning rate of each epoch.
        start: number of steps that are done.
    """

    images: int
    batch: int
    steps_per_epoch: int
    rates: Sequence[float]
    start: int

    @property
    def total(self) -> int:
        """Returns the number of steps of the whole run."""
        return self.steps_per_epoch * len(self.rates)

    def place(self, step: int) -> tuple[int, int]:
        """Returns the epoch of a step, and the number of images in its batch."""
        epoch, place = divmod(step - 1, self.steps_per_epoch)
        return epoch, min(self.batch, self.images - place * self.batch)

    def ends_epoch(self, step: int) -> bool:
        """Returns True if a step is the last of its epoch."""
        return step % self.steps_per_epoch == 0


class Monitor:
    """Hands out batches and records steps once the device has done them.

    Args:
        plan: the length of the run.
        record: called with each step, in order.
        fail: turns a message about a loss that is not finite into the error to raise.
        seconds: training time before this process.
    """

    def __init__(
        self,
        plan: Plan,
        record: Callable[[StepRecord], None],
        fail: Callable[[str], UserError],
        seconds: float,
    ):
        self._plan, self._record, self._fail, self._seconds = plan, record, fail, seconds
        self._observer = ThreadPoolExecutor(1)
        # steps whose loss is not yet read, and from when to when their batch was waited for
        self._ahead: deque[tuple[int, Future[tuple[float, float]], float, float]] = deque()
        self._recent = np.zeros(3)  # images, seconds and seconds without a batch, fading out
        self._clock = time.monotonic()  # when the device was done with the step before
        self._asked = self._came = self._clock

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(self, *exception: object) -> None:
        self._observer.shutdown()

    def next_batch(self, batches: Iterator[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Returns the next batch, and notes how long it was waited for."""
        self._asked = time.monotonic()
        batch = next(batches)
        self._came = time.monotonic()
        return batch

    def add(self, step: int, loss: jax.Array) -> None:
        """Takes the loss of a step that is under way; records steps that are `LAG` behind.

        Raises the error of `fail` for a loss that is not finite.
        """

        def done() -> tuple[float, float]:
            return float(loss), time.monotonic()  # waits until the device has done the step

        self._ahead.append((step, self._observer.submit(done), self._asked, self._came))
        if len(self._ahead) > LAG:
            self._report()

    def finish(self) -> None:
        """Records all steps that are under way. Raises as `add`."""
        while self._ahead:
            self._report()

    def _report(self) -> None:
        step, observed, asked, came = self._ahead.popleft()
        loss, now = observed.result()
        waited = max(0.0, came - max(asked, self._clock))  # and the device had nothing to do
        elapsed, self._clock = now - self._clock, now
        self._seconds += elapsed
        epoch, images = self._plan.place(step)
        # the first step holds the compilation: it fades at once
        fade = FADE if step > self._plan.start + 2 else 0.0
        self._recent = self._recent * fade + (images, elapsed, waited)
        if not np.isfinite(loss):
            raise self._fail(f"The loss of step {step} (epoch {epoch + 1}) is {loss}")
        images, seconds, without = self._recent
        self._record(
            StepRecord(
                step=step,
                epoch=epoch,
                loss=loss,
                lr=self._plan.rates[epoch],
                images_per_second=images / seconds,
                wait=min(1.0, without / seconds),
                seconds=self._seconds,
            )  # fmt: skip
        )
