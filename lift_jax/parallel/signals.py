"""Requests to stop: SIGTERM, Ctrl-C, and the notice that a machine will be taken away."""

import os
import signal
from types import FrameType

import jax
from jax.experimental import multihost_utils

# Exit status of a run that was stopped on request and has saved: the same command continues it.
# (EX_TEMPFAIL of sysexits.h; schedulers that requeue look for it.)
STOPPED = 75

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """A note that the user or the scheduler wants to stop, taken while a block runs.

    The loop in the block asks `asked` after every step, and can end in good order. A second Ctrl-C
    raises KeyboardInterrupt at once. With several processes, a SIGTERM to one of them stops all
    after the same step, because JAX passes it on.
    """

    def __init__(self):
        self._asked = False
        self._old_handlers = {}

    def __enter__(self) -> "StopRequest":
        several = jax.process_count() > 1
        for number in SIGNALS:
            if not (several and number == signal.SIGTERM):  # JAX itself handles that one
                self._old_handlers[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = True
        # print() is not safe here: the signal may have interrupted another print()
        os.write(2, b"\nStopping after this step, then saving. Ctrl-C again stops at once.\n")
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def asked(self, step: int) -> bool:
        """Returns True if training is to stop after `step`.

        Every process calls it after every step, and all get the same answer.
        """
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._asked
