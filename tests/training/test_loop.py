"""Tests of parts of the training loop: saving, validation, and the course."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from lift_jax.errors import UserError
from lift_jax.settings.groups.checkpoint import CheckpointSettings
from lift_jax.settings.groups.train import TrainSettings
from lift_jax.training.loop import Saver, make_course
from lift_jax.training.monitor import Course
from lift_jax.training.optimizer import schedule, sgd
from lift_jax.training.state import create_state

COURSE = Course(images=20, batch=4, steps_per_epoch=5, rates=[0.2] * 5 + [0.1] * 5, start=0)
EVERY = CheckpointSettings(every_steps=4, every_minutes=0.0)


class Recorded:
    """An output that keeps the lines and the number of checkpoints."""

    def __init__(self):
        self.lines, self.checkpoints = [], 0

    def show(self, line):
        self.lines.append(line)

    def saved(self):
        self.checkpoints += 1


def state_of(value=1.0):
    return create_state({"head/weight": jnp.full((2, 3), value)}, sgd(lambda _: 0.1, 0.9, 0.0))


@pytest.mark.parametrize(("validate", "steps"), [
    (None, [4, 8, 10]), (lambda _: 50.0, [4, 5, 8, 10]),
])  # fmt: skip
def test_when_a_checkpoint_is_due(validate, steps):
    """Every fourth step and the last are saved; with validation also the end of each epoch."""
    saver = Saver(None, EVERY, {}, 0, validate)
    assert [step for step in range(1, 11) if saver.due(step, COURSE)] == steps


def test_a_state_is_validated_at_the_end_of_an_epoch():
    """Two checkpoints have one validation, whose result is on a line."""
    validated, output = [], Recorded()
    saver = Saver(None, EVERY, {}, 0, lambda state: validated.append(state) or 62.5)
    state = state_of()
    saver.save(state, 4, COURSE, output)
    assert not validated and not output.lines
    saver.save(state, 5, COURSE, output)
    assert validated == [state] and output.lines == ["Validation after epoch 1: 62.50 %"]
    assert output.checkpoints == 2


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_weights_that_are_not_finite_are_not_saved(value):
    """An error names the step; nothing is validated or saved."""
    output = Recorded()
    saver = Saver(None, EVERY, {}, 0, lambda _: pytest.fail("validated"))
    with pytest.raises(UserError, match="not finite after step 5.*last good.*Lower train.lr"):
        saver.save(state_of(value), 5, COURSE, output)
    assert not output.lines and not output.checkpoints


def test_the_plan_of_a_run():
    """The course has the number of images, and the learning rate of each step by the schedule."""
    rate = schedule(0.02, 3, 4)
    setup = SimpleNamespace(
        steps_per_epoch=4, rate=rate, data=SimpleNamespace(train=np.zeros(13))
    )  # fmt: skip
    course = make_course(TrainSettings(epochs=3, batch=4), setup, 2)
    assert (course.images, course.batch, course.steps_per_epoch, course.start) == (13, 4, 4, 2)
    by_hand = np.repeat([0.02, 0.02 * 0.75, 0.02 * 0.25], 4)  # (1 + cos(pi e / 3)) / 2
    np.testing.assert_allclose(course.rates, by_hand, rtol=1e-6)
    assert course.total == 12
