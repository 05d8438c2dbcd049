"""Tests of the length of a run, and of the monitor that follows its steps."""

import jax.numpy as jnp
import pytest

from lift_jax.errors import UserError
from lift_jax.training.monitor import LAG, Course, Monitor

COURSE = Course(images=10, batch=4, steps_per_epoch=3, rates=[0.2] * 3 + [0.1] * 3, start=0)


def test_the_steps_of_a_run_by_hand():
    """A run has two epochs of batches of 4, 4 and 2 images."""
    assert COURSE.total == 6
    found = [COURSE.epoch_and_images(step) for step in range(1, 7)]
    assert found == [(0, 4), (0, 4), (0, 2), (1, 4), (1, 4), (1, 2)]
    assert [step for step in range(1, 7) if COURSE.ends_epoch(step)] == [3, 6]


def test_an_epoch_of_one_batch():
    """One batch holds all images in every epoch."""
    course = Course(images=3, batch=8, steps_per_epoch=1, rates=[0.1] * 5, start=2)
    assert course.total == 5 and all(course.ends_epoch(step) for step in range(1, 6))
    assert course.epoch_and_images(5) == (4, 3)


def monitored(losses, start=0, seconds=0.0):
    """Passes one loss a step to a monitor; returns its records, and their number after each."""
    course = Course(COURSE.images, COURSE.batch, COURSE.steps_per_epoch, COURSE.rates, start)
    records, numbers, batches = [], [], iter([{}] * len(losses))
    with Monitor(course, records.append, UserError, seconds) as monitor:
        for step, loss in enumerate(losses, start + 1):
            assert monitor.next_batch(batches) == {}
            monitor.add(step, jnp.float32(loss))
            numbers.append(len(records))
        monitor.finish()
    return records, numbers


def test_records_follow_the_device_in_order():
    """Each record comes `LAG` steps later, the last ones by `finish`, with the epoch's rate."""
    records, numbers = monitored([3.0, 2.5, 2.0, 1.5], start=1, seconds=100.0)
    assert numbers == [max(0, i + 1 - LAG) for i in range(4)]
    assert [record.step for record in records] == [2, 3, 4, 5]
    assert [record.loss for record in records] == [3.0, 2.5, 2.0, 1.5]
    assert [record.epoch for record in records] == [0, 0, 1, 1]
    assert [record.lr for record in records] == [0.2, 0.2, 0.1, 0.1]
    seconds = [record.seconds for record in records]
    assert 100 <= seconds[0] and seconds == sorted(seconds)
    assert all(0 <= record.wait <= 1 < record.images_per_second for record in records)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_run(value):
    """The error has the step, the epoch and the value; that step has no record."""
    records = []
    monitor = Monitor(COURSE, records.append, UserError, 0.0)
    with pytest.raises(UserError, match=rf"The loss of step 4 \(epoch 2\) is {value}"), monitor:
        for step, loss in enumerate([1.0, 1.0, 1.0, value], 1):
            monitor.add(step, jnp.float32(loss))
        monitor.finish()
    assert [record.step for record in records] == [1, 2, 3]
