"""The whole of a run, from settings to a folder of results, in reading order."""

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Self

import jax
from rich.console import Console

from lift_jax.data.names.meaning import GIVE, meaning
from lift_jax.errors import UserError
from lift_jax.evaluation.programs import Ahead, Job
from lift_jax.output.terminal import Terminal
from lift_jax.parallel import processes
from lift_jax.parallel.agreement import agree
from lift_jax.runs import folder, log, results
from lift_jax.runs.answers import calibrate
from lift_jax.runs.kept import other_split
from lift_jax.runs.log import RunLog
from lift_jax.runs.progress import Progress
from lift_jax.runs.unreadable import record_unreadable
from lift_jax.settings.common import common_settings
from lift_jax.settings.parse import as_begun
from lift_jax.settings.schema import Settings
from lift_jax.storage import disk
from lift_jax.training import checkpoint, loop, losses
from lift_jax.training.monitor import StepRecord
from lift_jax.training.setup import Setup, build
from lift_jax.training.state import State, create_state, state_shardings
from lift_jax.training.step import exact_products


def train_and_test(
    settings: Settings, workdir: str | Path, mode: str = "train", meanwhile: Iterable[Job] = ()
) -> dict[str, Any]:
    """Trains (or continues) and tests; returns what metrics.json holds.

    `mode` evaluate tests the newest checkpoint of `workdir` (with another test.split on that alone,
    if it is tested, and returns its results), zero_shot the untuned CLIP. The jobs `meanwhile` are
    done in a thread while it trains. Raises UserError for anything in the settings, the data, the
    weights or the folder that the user can mend, and in all processes if these differ.
    """
    agree(common_settings(settings.written) | {"the mode of the run": mode})
    workdir = folder.open_workdir(workdir)
    console = Terminal(quiet=jax.process_index() != 0)
    tell = partial(warn, console)
    keep, best = settings.checkpoint.keep, settings.checkpoint.best
    with (
        folder.writing(workdir),
        disk.disk_errors(workdir),
        exact_products(),
        checkpoint.open_manager(workdir, keep, best, tell) as manager,
        Ahead(meanwhile) as ahead,
    ):
        saved = checkpoint.read_about(manager)
        check_mode(mode, workdir, has_checkpoint=saved is not None, tuned=settings.model.tuned)
        if saved is not None:  # before anything slow
            # by process 0, since places of files may be others elsewhere
            processes.from_first(lambda: folder.check_config(saved, settings.written, workdir))
            settings = as_begun(settings, saved)
        setup = build(settings, console, fresh=saved is None and mode != "zero_shot")
        if mode == "zero_shot":
            check_zero_shot(settings, setup)
            return test(settings, setup, None, workdir, console)

        state = create_state(setup.tuned, setup.optimizer)
        state = jax.device_put(state, state_shardings(state, setup.mesh))
        if saved is not None:
            folder.check_content(saved, results.describe(settings.written, setup), workdir)
            state = checkpoint.restore(manager, state, console, best and mode == "evaluate")
            if jax.process_index() == 0:
                log.mend_log(workdir / log.LOG, tell)
        if mode == "train":
            done, total = int(state.step), setup.steps_per_epoch * settings.train.epochs
            finished = processes.from_first(
                lambda: folder.stored_metrics(workdir, settings.written, tell)
            )
            if done == total and finished:
                show_finished(settings, setup, state, manager, finished, workdir, console)
                return finished
            if 0 < done < total:
                console.print(f"Continuing {workdir} after step {done} of {total}.")
            if done < total:
                state = train(settings, setup, state, manager, ahead, workdir, console)
            if best:
                state = checkpoint.restore(manager, state, console, best=True)
                console.print(f"Tested is the checkpoint of step {int(state.step)}, the best.")
        if mode == "evaluate" and processes.from_first(lambda: lacks_only_split(settings, workdir)):
            return results.test_other_split(settings, setup, state, workdir, console)
        if saved is not None or mode == "train":  # else there is no checkpoint that predicts
            calibrate.after_training(settings, setup, state, workdir, console)
        return test(settings, setup, state, workdir, console)


def test(
    settings: Settings, setup: Setup, state: State | None, workdir: Path, console: Console
) -> dict[str, Any]:
    """Tests on the test split, and on the other one that test.split asks for."""
    found = results.test(settings, setup, state, workdir, console)
    if settings.test.split != "test":
        results.test_other_split(settings, setup, state, workdir, console)
    return found


def show_finished(
    settings: Settings, setup: Setup, state: State, manager: checkpoint.Manager,
    finished: Mapping[str, Any], workdir: Path, console: Console,
) -> None:  # fmt: skip
    """Shows the results of a finished run on the test split, which `finished` holds.

    Tests it on the split of test.split as well, if it has not been.
    """
    steps = finished["steps"]
    console.print(f"{workdir} is finished, all {steps} steps are done. Its results:")
    results.show(finished, settings, console)
    split = settings.test.split
    if split == "test" or processes.from_first(
        lambda: other_split.read(workdir, split, steps, settings.test.interpolation)
    ):
        return
    if settings.checkpoint.best:
        state = checkpoint.restore(manager, state, console, best=True)
    results.test_other_split(settings, setup, state, workdir, console)


def lacks_only_split(settings: Settings, workdir: Path) -> bool:
    """Returns True if another split is to be tested and the test split has been."""
    return settings.test.split != "test" and (workdir / folder.METRICS).exists()


def check_zero_shot(settings: Settings, setup: Setup) -> None:
    """Raises UserError, which says why, if there is no zero-shot classifier."""
    if setup.zero_shot is not None:
        return
    found = meaning(setup.data, settings.data.clean_names, settings.head)
    if found.no_names:
        raise UserError(f"There is no zero-shot classifier, because {found.no_names}. {GIVE}.")
    raise UserError(f"{settings.model.backbone} has no text tower, and so no zero-shot classifier.")


def warn(console: Console, line: str) -> None:
    """Prints a warning."""
    console.print(f"Warning: {line}")


def check_mode(mode: str, workdir: Path, *, has_checkpoint: bool, tuned: str) -> None:
    """Raises UserError if the run folder does not hold what the mode needs, or would lose it."""
    if mode == "evaluate" and not has_checkpoint and not tuned:
        raise UserError(
            f"{workdir} holds no checkpoint to evaluate. Train first (--mode=train), or give "
            "model.tuned the file of one."
        )
    if mode == "zero_shot" and has_checkpoint:
        raise UserError(
            f"{workdir} holds a trained run, whose results already have a zero-shot part and "
            "would be overwritten. Give another --workdir."
        )


def train(
    settings: Settings,
    setup: Setup,
    state: State,
    manager: checkpoint.Manager,
    ahead: Ahead,
    workdir: Path,
    console: Console,
) -> State:
    """Runs the training loop with the log, the progress bar and the checkpoints of a run folder.

    Meanwhile the programs of the test are compiled.
    """
    ahead.start(list(results.compile_ahead(settings, setup, state, console)))
    about, start = results.describe(settings.written, setup), int(state.step)
    folder.write_config(workdir, about)
    best = settings.checkpoint.best
    validate = results.validator(settings, setup, console) if best else None
    saver = loop.Saver(manager, settings.checkpoint, about, start, validate)
    output = RunOutput(setup, settings.train.epochs, start, workdir, console)
    loss = losses.make(settings.loss.name, setup.data.counts, **settings.loss.options)
    source = loop.open_batches(settings.train, settings.seed, settings.data.workers, setup, state)
    return loop.train(settings.train, loss, source, setup, state, saver, output, console)


class RunOutput:
    """Reports training to the log, the progress bar and the run folder (see `loop.Output`)."""

    def __init__(self, setup: Setup, epochs: int, start: int, workdir: Path, console: Console):
        first = jax.process_index() == 0
        total = setup.steps_per_epoch * epochs
        self._data, self._workdir, self._console = setup.data, workdir, console
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
        return self._log.resume(step)

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
