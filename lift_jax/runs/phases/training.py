"""One training in a folder, with its log, progress bar and checkpoints."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Self

import jax
from rich.console import Console

from lift_jax.data import prior
from lift_jax.runs import log, results
from lift_jax.runs.kept.unreadable import record_unreadable
from lift_jax.runs.log import RunLog
from lift_jax.runs.phases.progress import Progress
from lift_jax.settings.schema import Settings
from lift_jax.training import checkpoint, loop, losses
from lift_jax.training.monitor import StepRecord
from lift_jax.training.setup import Setup
from lift_jax.training.state import State, create_state, state_shardings


def begin(settings: Settings, setup: Setup) -> State:
    """Returns the state before the first step, placed on the mesh."""
    state = create_state(setup.tuned, setup.optimizer, averages=settings.train.ema > 0)
    return jax.device_put(state, state_shardings(state, setup.mesh))


def train(
    settings: Settings,
    setup: Setup,
    state: State,
    manager: checkpoint.Manager,
    about: dict[str, Any],
    folder: Path,
    console: Console,
    earlier: float = 0.0,
    on_compiled: Callable[[], object] = lambda: None,
) -> State:
    """Runs the training loop with the log, the progress bar and the checkpoints of a folder.

    Args:
        settings, setup: of this training.
        state: where it goes on; donated.
        manager: of the checkpoints in the folder.
        about: JSON description of the run, saved with each checkpoint.
        folder: the run folder, or that of a part of it.
        console: for messages.
        earlier: training seconds of the parts of the run before this one.
        on_compiled: called before the first step, when its program is compiled.
    """
    start = int(state.step)
    validate = results.validator(settings, setup, console) if settings.checkpoint.best else None
    saver = loop.Saver(manager, settings.checkpoint, about, start, validate)
    output = RunOutput(setup, settings.train.epochs, start, folder, console, earlier)
    draws = prior.expected_draws(setup.data.counts, settings.train.sampling)
    loss = losses.make(settings.loss.name, draws, **settings.loss.options)
    source = loop.open_batches(settings.train, settings.seed, settings.data.workers, setup, state)
    return loop.train(
        settings.train, loss, source, setup, state, saver, output, console, on_compiled
    )


def train_apart(
    settings: Settings, setup: Setup, about: dict[str, Any], folder: Path, console: Console
) -> State:
    """Trains, or continues, one part of a run in a folder of its own; returns the last state.

    With checkpoint.best it is the state that validates best.
    """
    if jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
    keep, best = settings.checkpoint.keep, settings.checkpoint.best
    with checkpoint.open_manager(folder, keep, best, partial(warn, console)) as manager:
        state, total = begin(settings, setup), setup.steps_per_epoch * settings.train.epochs
        if checkpoint.read_about(manager) is not None:
            state = checkpoint.restore(manager, state, console)
            console.print(f"Continuing {folder} after step {int(state.step)} of {total}.")
            if jax.process_index() == 0:
                log.mend_log(folder / log.LOG, partial(warn, console))
        if int(state.step) < total:
            state = train(settings, setup, state, manager, about, folder, console)
        return checkpoint.restore(manager, state, console, best=True) if best else state


def warn(console: Console, line: str) -> None:
    """Prints a warning."""
    console.print(f"Warning: {line}")


class RunOutput:
    """Reports training to the log, the progress bar and the run folder (see `loop.Output`)."""

    def __init__(
        self, setup: Setup, epochs: int, start: int, workdir: Path, console: Console,
        earlier: float,
    ):  # fmt: skip
        first = jax.process_index() == 0
        total = setup.steps_per_epoch * epochs
        self._data, self._workdir, self._console = setup.data, workdir, console
        self._earlier = earlier
        self._log = RunLog(workdir, active=first)
        self._progress = Progress(total, epochs, start, active=first, console=console)

    def __enter__(self) -> Self:
        self._log.__enter__()
        self._progress.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.__exit__(*exception)
        self._log.__exit__(*exception)

    def resume(self, step: int) -> float:
        """Drops what is logged after a step; returns the training seconds up to it."""
        if step == 0:
            self._record_unreadable(anew=("train", "val", "test"))
        return self._log.resume(step) if step else self._log.resume(0) + self._earlier

    def record(self, record: StepRecord) -> None:
        """Logs and shows a step."""
        self._log.write(record)
        self._progress.update(record)

    def show(self, line: str) -> None:
        """Shows a line above the progress bar."""
        self._progress.show_line(line)

    def saved(self) -> None:
        """Lists the images that could not be read so far."""
        self._record_unreadable()

    def _record_unreadable(self, anew: tuple[str, ...] = ()) -> None:
        process = jax.process_index()
        record_unreadable(self._data, self._workdir, process, self._console, anew=anew)
