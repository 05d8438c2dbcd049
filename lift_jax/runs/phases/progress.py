"""The progress of training, on a terminal or as lines of text."""

import math
import time
from collections import deque
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as RichProgress

from lift_jax.output.terminal import Terminal
from lift_jax.training.monitor import StepRecord

PLAIN_SECONDS = 30.0  # between lines of progress where there is no terminal
EPOCH_SECONDS = 1.0  # least time between lines at the ends of epochs
WAIT_HINT = 0.1  # share of the time spent waiting for data above which a hint is shown
WAIT_STEPS = 20  # number of steps over which that share is averaged


class Progress:
    """The progress of training: a live bar on a terminal, elsewhere lines of text.

    A line is printed after the first step, at the end of each epoch and every 30 seconds. If
    waiting for data takes more than 10 % of the time, a hint says once what to do.

    Args:
        steps: number of steps of the whole run.
        epochs: number of epochs of the whole run.
        start: number of steps done before.
        active: False on all processes but the first, where nothing is shown.
        console: where to print; default standard output.
        clock: returns the time in seconds.
    """

    def __init__(
        self,
        steps: int,
        epochs: int,
        start: int = 0,
        active: bool = True,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.steps = steps
        self.epochs = epochs
        self.active = active
        self._console = console or Terminal()
        self._clock = clock
        self._first: tuple[float, int] | None = None  # time and number of the first step
        self._printed = -math.inf  # time of the last line
        self._waits: deque[float] = deque(maxlen=WAIT_STEPS)
        self._hinted = False
        self._bar = None
        if active and self._console.is_terminal:
            columns = TextColumn("step {task.completed}/{task.total}"), BarColumn(bar_width=None)
            text = TextColumn("{task.fields[text]}")
            self._bar = RichProgress(*columns, text, console=self._console)
            self._task = self._bar.add_task("", total=steps, completed=start, text="compiling")

    def __enter__(self) -> "Progress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar:
            self._bar.stop()

    def update(self, record: StepRecord) -> None:
        """Shows a training step."""
        if not self.active:
            return
        now = self._clock()
        if self._first is None:  # it includes compilation and the start of the data workers
            self._first = now, record.step
        else:
            self._waits.append(record.wait)
        text = (
            f"epoch {record.epoch + 1}/{self.epochs} · loss {record.loss:.4f} · "
            f"{record.images_per_second:,.0f} images/s · {self._left(record.step, now)} left · "
            f"waiting {record.wait:.0%}"
        )
        if self._bar:
            self._bar.update(self._task, completed=record.step, text=text)
        else:
            epoch_ends = record.step * self.epochs % self.steps < self.epochs
            pause = EPOCH_SECONDS if epoch_ends else PLAIN_SECONDS
            if now - self._printed >= pause or record.step == self.steps:
                self._printed = now
                self._print(f"step {record.step}/{self.steps} · {text}")
        self._hint()

    def _left(self, step: int, now: float) -> str:
        """Returns the remaining time as text, by the mean pace since the first step."""
        assert self._first is not None
        begin, first = self._first
        if step == first:
            return "?"
        seconds = round((now - begin) / (step - first) * (self.steps - step))
        hours, minutes = seconds // 3600, seconds // 60 % 60
        return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{seconds % 60:02}s"

    def _hint(self) -> None:
        """Prints the hint about data once, if the device waits for data."""
        if self._hinted or len(self._waits) < WAIT_STEPS:
            return
        share = sum(self._waits) / len(self._waits)
        if share > WAIT_HINT:
            self._hinted = True
            self._print(
                f"Hint: {share:.0%} of the time goes into waiting for data. Prepare the images "
                "once (lift-jax data --prepare --config=...), or raise data.workers."
            )

    def show_line(self, line: str) -> None:
        """Prints a line above the bar."""
        if self.active:
            self._print(line)

    def _print(self, line: str) -> None:
        self._console.print(line, soft_wrap=True)
