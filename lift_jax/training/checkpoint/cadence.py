"""The times of saving: every so many steps, and about every so many minutes."""

import time
from collections.abc import Callable

from lift_jax.parallel import processes

PACE_STEPS = 10  # number of steps over which a run's pace is first measured


class Cadence:
    """Times of saving: every `steps` steps, and about every `minutes` minutes.

    All processes must save at the same step. So minutes are converted to steps, at the pace that
    process 0 has measured.

    Args:
        steps: between two checkpoints.
        minutes: between two checkpoints, approximately; 0 counts steps alone.
        start: number of steps that are done.
        clock: returns seconds.
    """

    def __init__(
        self, steps: int, minutes: float, start: int, clock: Callable[[], float] = time.monotonic
    ):
        self._steps, self._seconds, self._clock = steps, 60 * minutes, clock
        self._begun: tuple[int, float] | None = None  # step and time where the pace begins
        self._next: int | None = None
        self._start = start

    def due(self, step: int) -> bool:
        """Returns True if a checkpoint is due after `step`.

        Call it after every step, in every process.
        """
        if self._seconds:
            if step == self._start + 2:  # the first step included the compilation
                self._begun = step, self._clock()
            elif step == self._start + 2 + PACE_STEPS:
                self._plan(step)
        timed = step == self._next
        if timed:
            self._plan(step)
        return timed or step % self._steps == 0

    def _plan(self, step: int) -> None:
        """Sets the next step at which the minutes will have passed."""
        assert self._begun is not None
        first, begin = self._begun

        def steps() -> int:
            pace = max((self._clock() - begin) / (step - first), 1e-6)
            return max(1, int(self._seconds / pace))

        self._next = step + processes.from_first(steps)
