"""Stopping on request: SIGTERM, Ctrl-C, and the notice that a machine will be taken away."""

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
    """Notes a request to stop while a block runs, so that the loop in it can end in good order.

    The second Ctrl-C stops at once. Among several processes a SIGTERM to any of them stops all
    after the same step: JAX passes it on.
    """

    def __init__(self):
        self._asked = False
        self._before = {}

    def __enter__(self) -> "StopRequest":
        several = jax.process_count() > 1
        for number in SIGNALS:
            if not (several and number == signal.SIGTERM):  # that one JAX listens to
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = True
        # print() is not safe here: the signal may have come in the middle of another one
        os.write(2, b"\nStopping after this step, then saving. Ctrl-C again stops at once.\n")
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def asked(self, step: int) -> bool:
        """Whether to stop after `step`; call it after every step, on every process."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._asked
