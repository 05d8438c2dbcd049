"""The training loop: steps, log records, and checkpoints in their order."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

import jax
from rich.console import Console

from lift_jax.data import loader
from lift_jax.data.batches.ahead import Batches
from lift_jax.data.images import views
from lift_jax.errors import UserError
from lift_jax.evaluation.activations.reading import Reading
from lift_jax.models import tree
from lift_jax.parallel import cost
from lift_jax.parallel.mesh import put_batch
from lift_jax.parallel.signals import STOPPED, StopRequest
from lift_jax.settings.groups.checkpoint import CheckpointSettings
from lift_jax.settings.groups.train import TrainSettings
from lift_jax.training import checkpoint, optimizer
from lift_jax.training import step as step_module
from lift_jax.training.losses import Loss
from lift_jax.training.monitor import Course, Monitor, StepRecord
from lift_jax.training.setup import Setup
from lift_jax.training.state import State

Validate = Callable[[State], float]  # mean accuracy on the validation split, in percent


class Output(Protocol):
    """Output of training: log, progress bar and run folder. `train` enters it as a context."""

    def __enter__(self) -> "Output": ...

    def __exit__(self, *exception: object) -> None: ...

    def resume(self, step: int) -> float:
        """Drops log records after a step; returns the training seconds up to it."""
        ...

    def record(self, record: StepRecord) -> None:
        """Logs and shows a step that is done."""
        ...

    def show(self, line: str) -> None:
        """Shows a line above the progress bar."""
        ...

    def saved(self) -> None:
        """Takes note that a checkpoint is being saved."""
        ...


def train(
    settings: TrainSettings,
    loss: Loss,
    source: "Source",
    setup: Setup,
    state: State,
    saver: "Saver",
    output: Output,
    console: Console,
    on_compiled: Callable[[], object] = lambda: None,
) -> State:
    """Trains from the step of `state` to the last one, with checkpoints; returns the last state.

    Args:
        settings: settings of training.
        loss: loss for the training counts.
        source: batches from the step of `state` on; closed at the end.
        setup: graph, frozen leaves, optimizer and mesh.
        state: tuned leaves and optimizer state to start from; donated.
        saver: decides when a checkpoint is due, and saves it.
        output: log, progress bar and run folder.
        console: for messages.
        on_compiled: called before the first step, when its program is compiled.

    Raises UserError if a loss or a weight is not finite, or a checkpoint cannot be written. Raises
    SystemExit with status 75 after a request to stop.
    """
    start = int(state.step)
    if setup.remat.why:
        console.print(f"train.remat: {setup.remat.chosen} ({setup.remat.why}).", soft_wrap=True)
    course = make_course(settings, setup, start)
    train_step = step_module.make_train_step(
        setup.graph, setup.vision, loss, setup.optimizer, setup.mesh, settings.accum, source.start,
        setup.remat.chosen, settings.ema,
    )  # fmt: skip
    with closing(source.batches) as batches, output, StopRequest() as request:
        seconds = output.resume(start)
        with Monitor(course, output.record, saver.diverged, seconds) as monitor:
            for step in range(start + 1, course.total + 1):
                batch = put_batch(setup.mesh, monitor.next_batch(batches))
                if step == start + 1:
                    train_step = cost.compile_step(
                        train_step, state, setup.frozen, batch, console
                    ).step
                    on_compiled()
                state, value = train_step(state, setup.frozen, batch)
                monitor.add(step, value)
                stop = request.asked(step)
                if saver.due(step, course) or stop:
                    monitor.finish()  # raises unless all losses up to here are finite
                    saver.save(state, step, course, output)
                if stop and step < course.total:
                    saver.wait()
                    console.print(
                        f"Stopped after step {step} of {course.total}, which is saved. Run the "
                        "same command to continue."
                    )
                    raise SystemExit(STOPPED)
            saver.wait()
    return state


def make_course(train: TrainSettings, setup: Setup, start: int) -> Course:
    """Returns the length of the run and the learning rate of each step."""
    per_epoch = setup.steps_per_epoch
    rates = optimizer.rates(setup.rate, train, per_epoch)
    return Course(len(setup.data.train), train.batch, per_epoch, rates, start)


@dataclass(frozen=True)
class Source:
    """The training batches of this process.

    Attributes:
        batches: open iterator, to be closed.
        start: the block that the batches enter, if they are activations; 0 for images.
    """

    batches: Batches
    start: int


def open_batches(
    train: TrainSettings, seed: int, workers: int, setup: Setup, state: State
) -> Source:
    """Opens the training batches that follow the step of `state`.

    Without augmentation they are activations, if the cache has room for them. Raises UserError for
    data that cannot be read.
    """
    transform = views.TrainTransform(
        res=setup.vision.resolution, kind=train.augment, interpolation=train.interpolation,
        mda=train.mda, min_area=train.min_area, flip=train.flip, epochs=train.epochs,
    )  # fmt: skip
    reading = Reading(setup.data.train, transform, 0, workers)
    if train.augment == "none" and not train.flip:
        view = views.TestTransform(setup.vision.resolution, train.interpolation)
        visual = tree.merge(setup.graph, state.weights | setup.frozen).visual
        cached = setup.cache.read(visual, state.weights, setup.data.train, view)
        reading = cached if cached.start else reading
    batches = loader.train_batches(
        reading.split, reading.view, seed=seed, epochs=train.epochs, batch=train.batch,
        start_step=int(state.step), process=jax.process_index(), processes=jax.process_count(),
        workers=reading.workers, sampling=train.sampling,
    )  # fmt: skip
    return Source(batches, reading.start)


class Saver:
    """The rule for when a checkpoint is due, with its validation and saving.

    Args:
        manager: manager of the run's checkpoints.
        settings: settings of checkpoints, which give their cadence.
        about: JSON description of the run, saved with each checkpoint.
        start: number of steps that are done.
        validate: returns the accuracy of a state, at the end of an epoch; None for no validation.
    """

    def __init__(
        self,
        manager: checkpoint.Manager,
        settings: CheckpointSettings,
        about: dict[str, Any],
        start: int,
        validate: Validate | None,
    ):
        self._manager, self._about, self._validate = manager, about, validate
        self._cadence = checkpoint.Cadence(settings.every_steps, settings.every_minutes, start)

    def due(self, step: int, course: Course) -> bool:
        """Returns True if a checkpoint is due after `step`. Call it after every step."""
        due = self._cadence.due(step)
        validated = self._validate is not None and course.ends_epoch(step)
        return due or validated or step == course.total

    def save(self, state: State, step: int, course: Course, output: Output) -> None:
        """Validates at the end of an epoch, and saves in the background.

        Raises UserError if a weight is not finite.
        """
        if not step_module.all_finite(state.tuned):
            raise self.diverged(f"Weights are not finite after step {step}")
        score = None
        if self._validate is not None and course.ends_epoch(step):
            score = self._validate(state)
            epoch = step // course.steps_per_epoch
            output.show(f"Validation after epoch {epoch}: {score:.2f} %")
        checkpoint.save(self._manager, state, self._about, score)
        output.saved()

    def wait(self) -> None:
        """Waits until all checkpoints are written. Raises UserError if one cannot be written."""
        checkpoint.wait(self._manager)

    def diverged(self, fault: str) -> UserError:
        """Returns the error for a loss or weight that is not finite; `fault` says which."""
        return UserError(
            f"{fault}. Training stopped. {checkpoint.told_newest(self._manager)} Lower train.lr, "
            "or set model.precision=float32, and give another --workdir."
        )
