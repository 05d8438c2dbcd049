"""The manager of a run's checkpoints: it saves, reads back, and restores with orbax.

Process 0 writes and reads checkpoints and sends their content to the other processes, so only its
disk needs to be reliable.
"""

import shutil
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies
from rich.console import Console

from lift_jax.errors import DiskError, UserError
from lift_jax.parallel import processes
from lift_jax.parallel.mesh import put
from lift_jax.storage import atomic
from lift_jax.storage.names import plain_name
from lift_jax.training.checkpoint.contents import (
    ABOUT,
    CHECKSUMS,
    FOLDER,
    about_checksum,
    all_damaged,
    checksums,
    compare,
    first_line,
    split,
    to_host,
)
from lift_jax.training.checkpoint.scores import SCORE, Warn, by_score, move_broken_away, scores_of
from lift_jax.training.state import State

UNFINISHED = f"*{ocp.utils.TMP_DIR_SUFFIX}*"  # folders of checkpoints being written


@dataclass
class Checkpoints:
    """The checkpoints of a run folder.

    Attributes:
        orbax: reads and writes them.
        directory: their folder, by the name that the user knows.
        reader: the thread that reads back what was written, so that training goes on meanwhile.
        proof: the reading of the newest one, until `wait` has seen how it ended.
    """

    orbax: ocp.CheckpointManager
    directory: Path
    reader: futures.ThreadPoolExecutor
    proof: futures.Future[None] | None = None

    def line(self, error: Exception) -> str:
        """Returns the first line of an error's message, with the name that the user knows."""
        return first_line(error).replace(str(self.orbax.directory), str(self.directory))


Manager = Checkpoints | None  # None in all processes but process 0


@contextmanager
def open_manager(
    workdir: Path, keep: int, best: bool = False, warn: Warn = atomic.warn
) -> Iterator[Manager]:
    """Opens the manager of `workdir`/checkpoints, which saves in the background and atomically.

    It keeps the newest `keep` checkpoints, and with `best` also the one with the best score. Scores
    that cannot be read are moved aside, and `warn` says so. Yields None in all processes but
    process 0. Raises UserError if the folder cannot be made.
    """
    if jax.process_index() != 0:
        yield None
        return

    def score(metrics: dict[str, float]) -> float:
        return metrics[SCORE]

    folder = (workdir / FOLDER).absolute()
    if folder.exists() and not folder.is_dir():
        raise UserError(
            f"{folder} is a file; expected the folder of the checkpoints. Put the folder back, or "
            "move the file away to start again."
        )
    folder.mkdir(exist_ok=True)
    # A killed save leaves its folder. Orbax cleans in a thread that may outlive the program.
    for unfinished in folder.glob(UNFINISHED):
        shutil.rmtree(unfinished)
    move_broken_away(folder, warn)
    kept: list[policies.PreservationPolicy] = [policies.LatestN(keep)]
    if best:
        kept += [policies.BestN(get_metric_fn=score, n=1, keep_checkpoints_without_metrics=False)]
    options = ocp.CheckpointManagerOptions(
        best_fn=score if best else None,  # orbax saves no scores without it
        preservation_policy=policies.AnyPreservationPolicy(kept),
        multiprocessing_options=ocp.options.MultiprocessingOptions(
            primary_host=0, active_processes={0}, barrier_sync_key_prefix="first"
        ),
        create=False,
    )
    try:
        with (
            plain_name(folder) as plain,
            ocp.CheckpointManager(plain, options=options) as manager,
            futures.ThreadPoolExecutor(1, "lift_jax reads a checkpoint") as reader,
        ):
            yield Checkpoints(manager, folder, reader)
    finally:
        for unfinished in folder.glob(UNFINISHED):  # one that could not be written
            shutil.rmtree(unfinished, ignore_errors=True)
        with suppress(OSError):  # it holds checkpoints
            folder.rmdir()


def save(manager: Manager, state: State, about: dict, score: float | None = None) -> None:
    """Saves a state under its step; returns once the arrays are copied, before they are written.

    A thread reads the checkpoint back once it is written; `wait` says what it found. Call it in
    every process. `about` is a JSON description of the run, `score` the validation accuracy of the
    state. Raises DiskError (a UserError) if an earlier checkpoint, written in the
    background, could not be written.
    """
    host = to_host(state)
    if manager is None:
        return
    wait(manager)  # orbax would, too
    sums, step = checksums(host), int(host.step)
    about = {**about, CHECKSUMS: {**sums, ABOUT: about_checksum(about)}}
    args = ocp.args.Composite(state=ocp.args.StandardSave(host), about=ocp.args.JsonSave(about))
    with _writing(manager):
        manager.orbax.save(step, args=args, metrics=None if score is None else {SCORE: score})
    shapes = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), host)
    manager.proof = manager.reader.submit(_prove, manager, step, sums, shapes)


def wait(manager: Manager) -> None:
    """Waits until all checkpoints are written, and the newest one is read back.

    Raises DiskError if one cannot be written, or is not on the disk as it was saved.
    """
    if manager is None or manager.proof is None:
        return
    proof, manager.proof = manager.proof, None
    futures.wait([proof])
    with _writing(manager):
        manager.orbax.wait_until_finished()  # orbax forgets an error only in the thread that saves
        proof.result()


def _prove(manager: Checkpoints, step: int, expected: dict[str, int], like: State) -> None:
    """Waits until a checkpoint is written and reads it back. Raises ValueError if it differs."""
    manager.orbax.wait_until_finished()
    if checksums(_read_state(manager, step, like)) != expected:
        # an older one of the same step was not replaced
        raise ValueError(f"{manager.directory}/{step} does not hold what was saved")


def told_newest(manager: Manager) -> str:
    """Returns a sentence that says where the newest complete checkpoint is."""
    if manager is None:
        return "The last good checkpoint is that of process 0."
    wait(manager)
    step = manager.orbax.latest_step()
    if step is None:
        return "There is no checkpoint yet."
    return f"The last good checkpoint is {manager.directory}/{step}."


def read_about(manager: Manager) -> dict | None:
    """Returns the description in the newest readable checkpoint; None if there is no checkpoint.

    Raises UserError, in all processes, if there are checkpoints but none can be read.
    """

    def read() -> dict | None:
        assert manager is not None
        faults: dict[int, str] = {}
        for step in _newest_first(manager):
            try:
                return _about(manager, step)
            except Exception as e:  # damage surfaces as nearly every kind of exception
                faults[step] = manager.line(e)
        if faults:
            raise all_damaged(manager.directory, faults)
        return None

    return processes.from_first(read)


def restore(manager: Manager, like: State, console: Console, best: bool = False) -> State:
    """Returns the state of the newest checkpoint, or of the one with the best score.

    The state is placed as the state `like` is. A checkpoint that cannot be read, or whose values
    differ from the saved ones, is moved aside with a warning, and the one before it is read.
    Raises UserError, in all processes, if none is left.
    """
    leaves, structure = jax.tree.flatten(like)
    shapes = [np.zeros(leaf.shape, leaf.dtype) for leaf in leaves]

    def read() -> list[np.ndarray]:
        assert manager is not None
        host = _restore(manager, structure.unflatten(shapes), console, best)
        return [np.asarray(leaf) for leaf in jax.tree.leaves(host)]

    arrays = processes.arrays_from_first(read, shapes)
    placed = (put(array, leaf.sharding) for leaf, array in zip(leaves, arrays, strict=True))
    return structure.unflatten(placed)


def _restore(manager: Checkpoints, like: State, console: Console, best: bool) -> State:
    """Reads the first undamaged checkpoint, as NumPy arrays; moves the damaged ones aside."""
    faults: dict[int, str] = {}
    for step in _best_first(manager) if best else _newest_first(manager):
        try:
            state = _read_state(manager, step, like)
        # Damage surfaces as nearly every kind of exception, and the remedy is the same for all.
        except Exception as e:
            faults[step] = manager.line(e)
            continue
        for damaged, fault in faults.items():
            aside = _move_aside(manager, damaged)
            console.print(
                f"Warning: the checkpoint of step {damaged} is damaged ({fault}). It was "
                f"moved to {aside}, and the run continues from step {step}.",
            )
        if faults:
            manager.orbax.reload()
        return state
    raise all_damaged(manager.directory, faults)


def _best_first(manager: Checkpoints) -> list[int]:
    """Returns the steps of the checkpoints by falling score; those without a score come last."""
    steps = _newest_first(manager)
    if not (scores := scores_of(manager.directory, steps)):
        raise UserError(
            f"checkpoint.best is set, but no checkpoint in {manager.directory} has been "
            "validated: the run was trained without. Leave it out to test the newest."
        )
    return by_score(steps, scores)


def _read_state(manager: Checkpoints, step: int, like: State) -> State:
    """Reads the state of one checkpoint. Raises ValueError if a checksum or the step is wrong."""
    _, expected = split(_read(manager, step, ABOUT, ocp.args.JsonRestore()))
    state = _read(manager, step, "state", ocp.args.StandardRestore(like))
    compare(checksums(state), expected)
    if int(state.step) != step:
        raise ValueError(f"it holds step {int(state.step)}")
    return state


def _newest_first(manager: Checkpoints) -> list[int]:
    return sorted(manager.orbax.all_steps(), reverse=True)


def _about(manager: Checkpoints, step: int) -> dict:
    return split(_read(manager, step, ABOUT, ocp.args.JsonRestore()))[0]


def _read(manager: Checkpoints, step: int, item: str, args: ocp.args.CheckpointArgs) -> Any:
    return manager.orbax.restore(step, args=ocp.args.Composite(**{item: args}))[item]


def _move_aside(manager: Checkpoints, step: int) -> Path:
    """Moves a damaged checkpoint out of its folder and returns its new path."""
    name = f"damaged_checkpoint_{step}"
    return atomic.move_aside(manager.directory / str(step), manager.directory.parent / name)


@contextmanager
def _writing(manager: Checkpoints) -> Iterator[None]:
    """Turns errors of the block into a DiskError."""
    try:
        yield
    # Orbax writes in the background and re-raises whatever went wrong there.
    except Exception as e:
        raise DiskError(
            f"Cannot save a checkpoint in {manager.directory}: {manager.line(e)}. Those that are "
            "complete are intact: make room, or the folder writable, and run the same command to "
            "continue."
        ) from e
