"""Checkpoints: when to save them, and how to write and read them with orbax.

A checkpoint holds the state (tuned leaves, optimizer, step) and a JSON description of its run: the
config, the classes and a fingerprint of the frozen weights. It takes megabytes, for it does not
hold the backbone. Process 0 writes and reads checkpoints and sends their content to the other
processes, so only its disk needs to be reliable.
"""

import json
import shutil
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as policies
from rich.console import Console

from lift_jax.errors import DiskError, UserError
from lift_jax.parallel import processes
from lift_jax.parallel.mesh import put
from lift_jax.training.state import State

CHECKSUMS = "checksums"  # key in the description of a checkpoint
SCORE = "score"  # key of the validation accuracy in a checkpoint's metrics
PACE_STEPS = 10  # number of steps over which a run's pace is first measured
Manager = ocp.CheckpointManager | None  # None in all processes but process 0


@contextmanager
def open_manager(workdir: Path, keep: int, best: bool = False) -> Iterator[Manager]:
    """Opens the manager of `workdir`/checkpoints, which saves in the background and atomically.

    It keeps the newest `keep` checkpoints, and with `best` also the one with the best score. Yields
    None in all processes but process 0.
    """
    if jax.process_index() != 0:
        yield None
        return

    def score(metrics: dict[str, float]) -> float:
        return metrics[SCORE]

    folder = (workdir / "checkpoints").absolute()
    # A killed save leaves its folder. Orbax cleans in a thread that may outlive the program.
    for unfinished in folder.glob(f"*{ocp.utils.TMP_DIR_SUFFIX}*"):
        shutil.rmtree(unfinished)
    folder.mkdir(exist_ok=True)
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
        with ocp.CheckpointManager(folder, options=options) as manager:
            yield manager
    finally:
        with suppress(OSError):  # it holds checkpoints
            folder.rmdir()


def save(manager: Manager, state: State, about: dict, score: float | None = None) -> None:
    """Saves a state under its step; returns once the arrays are copied, before they are written.

    Call it in every process. `about` is a JSON description of the run, `score` the validation
    accuracy of the state. Raises DiskError (a UserError) if an earlier checkpoint, written in the
    background, could not be written.
    """
    host = to_host(state)
    if manager is None:
        return
    about = {**about, CHECKSUMS: checksums(host)}
    args = ocp.args.Composite(state=ocp.args.StandardSave(host), about=ocp.args.JsonSave(about))
    with _writing(manager):
        manager.save(int(host.step), args=args, metrics=None if score is None else {SCORE: score})


def wait(manager: Manager) -> None:
    """Waits until all checkpoints are written. Raises DiskError if one cannot be written."""
    if manager is not None:
        with _writing(manager):
            manager.wait_until_finished()


def newest_path(manager: Manager) -> str:
    """Returns the path of the newest complete checkpoint, as words for a message."""
    if manager is None:
        return "that of process 0"
    manager.wait_until_finished()
    step = manager.latest_step()
    return f"{manager.directory}/{step}" if step is not None else "none yet"


def read_about(manager: Manager) -> dict | None:
    """Returns the description in the newest readable checkpoint; None if there is no checkpoint.

    Raises UserError, in all processes, if there are checkpoints but none can be read.
    """

    def read() -> dict | None:
        assert manager is not None
        faults = {}
        for step in _newest_first(manager):
            try:
                return _about(manager, step)
            except Exception as e:  # damage surfaces as nearly every kind of exception
                faults[step] = e
        if faults:
            raise _all_damaged(manager, faults)
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


def _restore(manager: ocp.CheckpointManager, like: State, console: Console, best: bool) -> State:
    """Reads the first undamaged checkpoint, as NumPy arrays; moves the damaged ones aside."""
    faults = {}
    for step in _best_first(manager) if best else _newest_first(manager):
        try:
            state = _read_state(manager, step, like)
        # Damage surfaces as nearly every kind of exception, and the remedy is the same for all.
        except Exception as e:
            faults[step] = e
            continue
        for damaged, error in faults.items():
            aside = _move_aside(manager, damaged)
            console.print(
                f"Warning: the checkpoint of step {damaged} is damaged ({_line(error)}). It was "
                f"moved to {aside}, and the run continues from step {step}.",
                markup=False,
            )
        if faults:
            manager.reload()
        return state
    raise _all_damaged(manager, faults)


def _best_first(manager: ocp.CheckpointManager) -> list[int]:
    """Returns the steps of the checkpoints by falling score; those without a score come last."""
    steps = _newest_first(manager)
    scores = {step: (manager.metrics(step) or {}).get(SCORE, -1.0) for step in steps}
    if max(scores.values(), default=-1.0) < 0:
        raise UserError(
            f"checkpoint.best is set, but no checkpoint in {manager.directory} has been "
            "validated: the run was trained without. Leave it out to test the newest."
        )
    return sorted(steps, key=lambda step: (scores[step], step), reverse=True)


def _read_state(manager: ocp.CheckpointManager, step: int, like: State) -> State:
    """Reads the state of one checkpoint. Raises ValueError if a checksum is wrong."""
    expected = _read(manager, step, "about", ocp.args.JsonRestore())[CHECKSUMS]
    state = _read(manager, step, "state", ocp.args.StandardRestore(like))
    wrong = [name for name, value in checksums(state).items() if expected.get(name) != value]
    if wrong:
        raise ValueError(f"the values of {wrong[0]} are not those that were saved")
    return state


def best_or_newest_step(workdir: Path) -> int | None:
    """Returns the step with the best score, or the newest if none has a score.

    Returns None if there is no checkpoint. Changes nothing, so the run may be in progress.
    """
    folder = (workdir / "checkpoints").absolute()
    if not folder.is_dir():
        return None
    steps = ocp.utils.checkpoint_steps(folder)
    scores = {}
    for step in steps:
        path = folder / str(step) / "metrics" / "metrics"
        if path.exists():
            scores[step] = json.loads(path.read_text(encoding="utf-8"))[SCORE]
    return (
        max(scores, key=lambda step: (scores[step], step)) if scores else max(steps, default=None)
    )


def to_host(state: State) -> State:
    """Returns the state as NumPy arrays. Call it in every process: it gathers sharded leaves."""

    def fetch(leaf: jax.Array) -> np.ndarray:
        if leaf.is_fully_addressable or leaf.is_fully_replicated:
            return np.asarray(leaf)
        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))

    return jax.tree.map(fetch, state)


def checksums(state: State) -> dict[str, int]:
    """Returns the CRC-32 of every leaf's bytes, by path."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {
        jax.tree_util.keystr(path): zlib.crc32(np.ascontiguousarray(leaf).tobytes())
        for path, leaf in leaves
    }


class Cadence:
    """Times of saving: every `steps` steps, and about every `minutes` minutes.

    All processes must save at the same step. So minutes are converted to steps, at the pace that
    process 0 has measured.

    Args:
        steps: between two checkpoints.
        minutes: between two checkpoints, approximately; 0 counts steps alone.
        start: number of steps that are done.
        clock: returns seconds.
    """

    def __init__(
        self, steps: int, minutes: float, start: int, clock: Callable[[], float] = time.monotonic
    ):
        self._steps, self._seconds, self._clock = steps, 60 * minutes, clock
        self._begun: tuple[int, float] | None = None  # step and time where the pace begins
        self._next: int | None = None
        self._start = start

    def due(self, step: int) -> bool:
        """Returns True if a checkpoint is due after `step`.

        Call it after every step, in every process.
        """
        if self._seconds:
            if step == self._start + 2:  # the first step included the compilation
                self._begun = step, self._clock()
            elif step == self._start + 2 + PACE_STEPS:
                self._plan(step)
        timed = step == self._next
        if timed:
            self._plan(step)
        return timed or step % self._steps == 0

    def _plan(self, step: int) -> None:
        """Sets the next step at which the minutes will have passed."""
        assert self._begun is not None
        first, begin = self._begun

        def steps() -> int:
            pace = max((self._clock() - begin) / (step - first), 1e-6)
            return max(1, int(self._seconds / pace))

        self._next = step + processes.from_first(steps)


def _newest_first(manager: ocp.CheckpointManager) -> list[int]:
    return sorted(manager.all_steps(), reverse=True)


def _about(manager: ocp.CheckpointManager, step: int) -> dict:
    about = _read(manager, step, "about", ocp.args.JsonRestore())
    return {key: value for key, value in about.items() if key != CHECKSUMS}


def _read(
    manager: ocp.CheckpointManager, step: int, item: str, args: ocp.args.CheckpointArgs
) -> Any:
    return manager.restore(step, args=ocp.args.Composite(**{item: args}))[item]


def _move_aside(manager: ocp.CheckpointManager, step: int) -> Path:
    """Moves a damaged checkpoint out of its folder and returns its new path."""
    folder = Path(manager.directory)
    aside = folder.parent / f"damaged_checkpoint_{step}"
    if aside.exists():
        shutil.rmtree(aside)
    (folder / str(step)).rename(aside)
    return aside


def _all_damaged(manager: ocp.CheckpointManager, faults: dict[int, Exception]) -> UserError:
    lines = "\n  ".join(f"{manager.directory}/{step}: {_line(e)}" for step, e in faults.items())
    return UserError(
        f"No checkpoint of this run can be read:\n  {lines}\nRestore them from a copy, delete "
        f"{manager.directory} to begin anew, or give another --workdir."
    )


def _line(error: Exception) -> str:
    """Returns the first line of an error's message, or its type."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


@contextmanager
def _writing(manager: ocp.CheckpointManager) -> Iterator[None]:
    """Turns errors of the block into a DiskError."""
    try:
        yield
    # Orbax writes in the background and re-raises whatever went wrong there.
    except Exception as e:
        raise DiskError(
            f"Cannot save a checkpoint in {manager.directory}: {_line(e)}. Those that are complete "
            "are intact: make room, or the folder writable, and run the same command to continue."
        ) from e
