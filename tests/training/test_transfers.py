"""Tests of what a run costs beside its steps: no reading back, and no program compiled twice."""

import logging
import re
import threading
from collections import Counter

import jax
import pytest
from jax._src.array import ArrayImpl
from support.runs import train_and_test

from configs import folder
from lift_jax.evaluation.programs import THREAD
from lift_jax.runs import results
from lift_jax.training.monitor import Monitor

# functions that the package compiles
OURS = ("step", "_finite", "encode", "tower", "embedding", "classify", "count", "work")


class Programs(logging.Handler):
    """Counts programs by name and shapes of their arguments, and by thread and name."""

    def __init__(self):
        super().__init__(logging.DEBUG)
        self.found, self.by_thread = Counter(), Counter()

    def emit(self, record):
        if found := re.match(r"Compiling (?:jit\()?(\w+)\)?(.*)", record.getMessage(), re.DOTALL):
            self.found[found.groups()] += 1
            self.by_thread[record.threadName, found[1]] += 1


def watch_programs(patch):
    """Returns a count of the programs that are compiled from now on."""
    handler, logger = Programs(), logging.getLogger("jax._src.interpreters.pxla")
    patch.setattr(logger, "handlers", [*logger.handlers, handler])
    patch.setattr(logger, "level", logging.DEBUG)
    logging.Logger.manager._clear_cache()  # of the levels
    return handler


def watch_reads(patch):
    """Returns a list of (step, thread, size) of arrays that the host reads during the steps."""
    reads, at, value, add = [], [0], ArrayImpl._value, Monitor.add

    def read(array):
        reads.append((at[0], threading.current_thread(), array.size))
        return value.fget(array)

    def adding(monitor, step, loss):
        add(monitor, step, loss)
        at[0] = step

    patch.setattr(ArrayImpl, "_value", property(read))
    patch.setattr(Monitor, "add", adding)
    return reads


def after_the_thread(test):
    """Returns the test of a run, which now begins when the thread that compiles is done."""

    def wait(*arguments):
        for thread in threading.enumerate():
            if thread.name == THREAD:
                thread.join()
        return test(*arguments)

    return wait


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """Trains and tests a small run; returns its reads, its programs and its steps."""
    config = folder.get_config("debug")
    config.data.name, config.train.epochs, config.checkpoint.every_steps = "fake", 4, 10**6
    jax.clear_caches()
    with pytest.MonkeyPatch.context() as patch:
        programs, reads = watch_programs(patch), watch_reads(patch)
        patch.setattr(results, "test", after_the_thread(results.test))
        found = train_and_test(config, tmp_path_factory.mktemp("run"))
    return reads, programs, found["steps"]


def test_the_host_reads_nothing_but_losses_while_it_trains(watched):
    """A thread reads each loss; the main thread, which sends the steps, reads nothing."""
    reads, _, steps = watched
    assert steps >= 8
    during = [each for each in reads if 1 <= each[0] < steps]
    assert not [each for each in during if each[1] is threading.main_thread()]
    assert {size for *_, size in during} == {1}
    assert 1 <= len(during) <= steps  # the thread may lag behind


AHEAD = {"tower": 3, "embedding": 4, "classify": 2, "count": 1, "work": 1}  # see `Chain`


def test_no_program_is_compiled_twice(watched):
    """Expects each program once.

    There are towers before tuning, after it, and for several crops. The cosine head embeds the
    features of each, and the zero-shot head those of the first. Both heads classify. The leaves
    have six shapes, each with a program that looks for numbers that are not finite.
    """
    _, programs, _ = watched
    by_name = Counter()
    for (name, _), times in programs.found.items():
        by_name[name] += times
    assert {name: by_name[name] for name in OURS} == AHEAD | {"step": 1, "encode": 1, "_finite": 6}
    assert sum(programs.found.values()) <= 55  # also those of single operations


def test_the_programs_of_the_test_are_compiled_while_training_goes_on(watched):
    _, programs, _ = watched
    ahead = {name: n for (thread, name), n in programs.by_thread.items() if thread == THREAD}
    assert ahead == AHEAD
