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

OURS = ("step", "all_finite", "count", "work", "encode")  # functions that the package compiles


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


def test_no_program_is_compiled_twice(watched):
    """The step has one program, and each test has one; a retrace would add to them."""
    _, programs, _ = watched
    ours = {key: times for key, times in programs.found.items() if key[0] in OURS}
    assert set(ours.values()) == {1}
    by_name = Counter(name for name, _ in ours)
    assert by_name == {"step": 1, "all_finite": 1, "encode": 1, "count": 3, "work": 1}
    assert sum(programs.found.values()) <= 45  # also those of single operations


def test_the_programs_of_the_test_are_compiled_while_training_goes_on(watched):
    _, programs, _ = watched
    ahead = {name: n for (thread, name), n in programs.by_thread.items() if thread == THREAD}
    assert ahead == {"count": 3, "work": 1}
