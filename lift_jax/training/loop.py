"""The training loop: what happens to each batch, in order."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import numpy as np
from rich.console import Console

from lift_jax.data import loader
from lift_jax.data.images import views
from lift_jax.data.loader import Batches
from lift_jax.errors import UserError
from lift_jax.evaluation import activations
from lift_jax.models import tree
from lift_jax.parallel import cost
from lift_jax.parallel.mesh import put_batch
from lift_jax.parallel.signals import STOPPED, StopRequest
from lift_jax.settings.schema import CheckpointSettings, TrainSettings
from lift_jax.training import checkpoint
from lift_jax.training import step as step_module
from lift_jax.training.losses import Loss
from lift_jax.training.monitor import Monitor, Plan, StepRecord
from lift_jax.training.setup import Setup
from lift_jax.training.state import State

Validate = Callable[[State], float]  # mean accuracy on the validation split, in percent


class Output(Protocol):
    """Where training reports to: log, progress bar and run folder. Enter it around the loop."""

    def __enter__(self) -> "Output": ...

    def __exit__(self, *exception: object) -> None: ...

    def resume(self, step: int) -> float:
        """Drops what is logged after a step; returns the training seconds up to it."""
        ...

    def record(self, record: StepRecord) -> None:
        """Takes a step that is done."""
        ...

    def show(self, line: str) -> None:
        """Shows a line above the progress bar."""
        ...

    def saved(self) -> None:
        """Hears that a checkpoint is being saved."""
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
) -> State:
    """Trains from the state's step to the last; saves on the way and at the end.

    Raises UserError if a loss or a weight is not finite, or a checkpoint cannot be written, and
    SystemExit with status 75 after a request to stop.
    """
    start = int(state.step)
    plan = make_plan(settings, setup, start)
    train_step = step_module.make_train_step(
        setup.graph, setup.vision, loss, setup.optimizer, setup.mesh, settings.accum, source.start,
        settings.remat,
    )  # fmt: skip
    with closing(source.batches) as batches, output, StopRequest() as request:
        seconds = output.resume(start)
        with Monitor(plan, output.record, saver.diverged, seconds) as monitor:
            for step in range(start + 1, plan.total + 1):
                batch = put_batch(setup.mesh, monitor.next_batch(batches))
                if step == start + 1:
                    train_step = cost.compile_step(
                        train_step, state, setup.frozen, batch, console
                    ).step
                state, value = train_step(state, setup.frozen, batch)
                monitor.add(step, value)
                stop = request.asked(step)
                if saver.due(step, plan) or stop:
                    monitor.finish()  # save only after all losses up to here are good
                    saver.save(state, step, plan, output)
                if stop and step < plan.total:
                    saver.wait()
                    console.print(
                        f"Stopped after step {step} of {plan.total}, which is saved. Run the same "
                        "command to continue."
                    )
                    raise SystemExit(STOPPED)
            saver.wait()
    return state


def make_plan(train: TrainSettings, setup: Setup, start: int) -> Plan:
    """Returns the length of the run and the learning rate of each epoch."""
    per_epoch = setup.steps_per_epoch
    rates = [float(np.asarray(setup.rate(e * per_epoch))) for e in range(train.epochs)]
    return Plan(len(setup.data.train), train.batch, per_epoch, rates, start)


@dataclass(frozen=True)
class Source:
    """The training batches of this process, and the block that they enter (0 for images)."""

    batches: Batches
    start: int


def open_batches(
    train: TrainSettings, seed: int, workers: int, setup: Setup, state: State
) -> Source:
    """Opens the batches from the state's step on.

    Without augmentation they are activations from the cache, where it has room for them. Raises
    UserError for data that cannot be read.
    """
    transform = views.TrainTransform(
        res=setup.vision.resolution, kind=train.augment, interpolation=train.interpolation,
        mda=train.mda, min_area=train.min_area, flip=train.flip, epochs=train.epochs,
    )  # fmt: skip
    reading = activations.Reading(setup.data.train, transform, 0, workers)
    if train.augment == "none" and not train.flip:
        view = views.TestTransform(setup.vision.resolution, train.interpolation)
        visual = tree.merge(setup.graph, state.tuned | setup.frozen).visual
        kept = setup.cache.read(visual, state.tuned, setup.data.train, view)
        reading = kept if kept.start else reading
    batches = loader.train_batches(
        reading.split, reading.view, seed=seed, epochs=train.epochs, batch=train.batch,
        start_step=int(state.step), process=jax.process_index(), processes=jax.process_count(),
        workers=reading.workers,
    )  # fmt: skip
    return Source(batches, reading.start)


class Saver:
    """Decides when to save, validates where that is asked for, and saves.

    Args:
        manager: of the run's checkpoints.
        settings: the cadence.
        about: what a checkpoint belongs to, saved with it.
        start: number of steps that are done.
        validate: returns the accuracy of a state after each epoch; None for no validation.
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

    def due(self, step: int, plan: Plan) -> bool:
        """Returns True if the state after `step` is to be saved; call it after every step."""
        due = self._cadence.due(step)
        return due or step == plan.total or (self._validate is not None and plan.ends_epoch(step))

    def save(self, state: State, step: int, plan: Plan, output: Output) -> None:
        """Saves in the background. Raises UserError for weights that are not finite."""
        if not step_module.all_finite(state.tuned):
            raise self.diverged(f"Weights are not finite after step {step}")
        score = None
        if self._validate is not None and plan.ends_epoch(step):
            score = self._validate(state)
            epoch = step // plan.steps_per_epoch
            output.show(f"Validation after epoch {epoch}: {score:.2f} %")
        checkpoint.save(self._manager, state, self._about, score)
        output.saved()

    def wait(self) -> None:
        """Returns once everything is written. Raises UserError if it cannot be."""
        checkpoint.wait(self._manager)

    def diverged(self, what: str) -> UserError:
        """Returns the error of a run whose numbers are no longer finite."""
        return UserError(
            f"{what}. Training stopped; the last good checkpoint is "
            f"{checkpoint.newest_path(self._manager)}. Lower train.lr, or set "
            "model.precision=float32, and give another --workdir."
        )
