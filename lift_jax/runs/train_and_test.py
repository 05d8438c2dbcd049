"""The whole of a run, from settings to a folder of results, in reading order."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

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
from lift_jax.runs.kept import other_split, result_files
from lift_jax.runs.phases import stages, training
from lift_jax.runs.phases.training import warn
from lift_jax.settings.common import common_settings
from lift_jax.settings.parse import as_begun
from lift_jax.settings.schema import Settings
from lift_jax.storage import disk
from lift_jax.training import checkpoint, optimizer
from lift_jax.training.setup import Setup, build
from lift_jax.training.state import State
from lift_jax.training.step import exact_products


def train_and_test(
    settings: Settings, workdir: str | Path, mode: str = "train", meanwhile: Iterable[Job] = ()
) -> dict[str, Any]:
    """Trains (or continues) and tests; returns what metrics.json holds.

    Args:
        settings: of the run.
        workdir: the run folder.
        mode: train; evaluate, which tests the newest checkpoint of `workdir` (if the run is tested
            and test.split is another split: on that split alone, whose results are returned); or
            zero_shot, which tests the untuned backbone.
        meanwhile: jobs that are done in a thread during training.

    Raises UserError for anything in the settings, the data, the weights or the folder that the user
    can mend, and in all processes if these differ.
    """
    agree(common_settings(settings.written) | {"the mode of the run": mode})
    workdir = folder.open_workdir(workdir, settings.data)
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
        begun = stages.about(workdir) if saved is None and mode == "train" else saved
        if begun is not None:  # before anything slow
            # by process 0, because other processes may keep their files elsewhere
            processes.from_first(lambda: folder.check_config(begun, settings.written, workdir))
            settings = as_begun(settings, begun)
        setup = build(settings, console, fresh=begun is None and mode != "zero_shot")
        if mode == "zero_shot":
            check_zero_shot(settings, setup)
            return test(settings, setup, None, workdir, console)

        about = results.describe(settings.written, setup)
        if begun is not None:
            folder.check_content(begun, about, workdir)
        if mode == "train" and saved is None:
            setup = stages.run(settings, setup, about, workdir, console)
        state = training.begin(settings, setup)
        if saved is not None:
            state = checkpoint.restore(manager, state, console, best and mode == "evaluate")
            if jax.process_index() == 0:
                log.mend_log(workdir / log.LOG, tell)
        if mode == "train":
            if finished := finish_again(settings, setup, state, manager, workdir, console):
                return finished
            state = train_on(settings, setup, state, manager, about, ahead, workdir, console)
        if mode == "evaluate" and processes.from_first(lambda: lacks_only_split(settings, workdir)):
            return results.test_other_split(settings, setup, state, workdir, console)
        if saved is not None or mode == "train":  # else there is no checkpoint that predicts
            calibrate.after_training(settings, setup, state, workdir, console)
        return test(settings, setup, state, workdir, console)


def finish_again(
    settings: Settings, setup: Setup, state: State, manager: checkpoint.Manager, workdir: Path,
    console: Console,
) -> dict[str, Any] | None:  # fmt: skip
    """Shows and returns the results of a run that is finished; None for one that is not.

    Tests it on the split of test.split as well, if it has not been.
    """
    total = setup.steps_per_epoch * settings.train.epochs
    tell = partial(warn, console)
    finished = processes.from_first(lambda: folder.stored_metrics(workdir, settings.written, tell))
    if int(state.step) < total or not finished:
        return None
    stages.tidy(workdir)
    steps, split = finished["steps"], settings.test.split
    console.print(f"{workdir} is finished, all {steps} steps are done. Its results:")
    results.show(finished, settings, console)
    if split != "test" and not processes.from_first(
        lambda: other_split.read(workdir, split, steps, settings.test.interpolation)
    ):
        if settings.checkpoint.best:
            state = checkpoint.restore(manager, state, console, best=True)
        results.test_other_split(settings, setup, state, workdir, console)
    return finished


def train_on(
    settings: Settings, setup: Setup, state: State, manager: checkpoint.Manager,
    about: dict[str, Any], ahead: Ahead, workdir: Path, console: Console,
) -> State:  # fmt: skip
    """Trains from a state to the end; returns the state to test. `about` describes the run.

    The programs of the test are compiled meanwhile, after that of the step, so that the first step
    comes soon.
    """
    done, total = int(state.step), setup.steps_per_epoch * settings.train.epochs
    if 0 < done < total:
        console.print(f"Continuing {workdir} after step {done} of {total}.")
    if done == 0 and (line := optimizer.note(settings.train)):
        console.print(line)
    if done < total:
        jobs = list(results.compile_ahead(settings, setup, state, console))
        folder.write_config(workdir, about)
        earlier = stages.seconds(workdir)
        state = training.train(
            settings, setup, state, manager, about, workdir, console, earlier,
            on_compiled=partial(ahead.start, jobs),
        )  # fmt: skip
    if settings.checkpoint.best:
        state = checkpoint.restore(manager, state, console, best=True)
        console.print(f"The best checkpoint is tested, that of step {int(state.step)}.")
    return state


def test(
    settings: Settings, setup: Setup, state: State | None, workdir: Path, console: Console
) -> dict[str, Any]:
    """Tests on the test split, and on the other one that test.split asks for."""
    found = results.test(settings, setup, state, workdir, console)
    stages.tidy(workdir)
    if settings.test.split != "test":
        results.test_other_split(settings, setup, state, workdir, console)
    return found


def lacks_only_split(settings: Settings, workdir: Path) -> bool:
    """Returns True if another split is to be tested and the test split has been."""
    return settings.test.split != "test" and (workdir / result_files.METRICS).exists()


def check_zero_shot(settings: Settings, setup: Setup) -> None:
    """Raises UserError, which says why, if there is no zero-shot classifier."""
    if setup.zero_shot is not None:
        return
    found = meaning(setup.data, settings.data.clean_names, settings.head)
    if found.no_names:
        raise UserError(f"There is no zero-shot classifier, because {found.no_names}. {GIVE}.")
    raise UserError(f"{settings.model.backbone} has no text tower, and so no zero-shot classifier.")


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
