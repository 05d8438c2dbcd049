"""Checkpoints: orbax behind five functions.

A checkpoint holds the state (tuned leaves, optimizer, step) and, as JSON, what it belongs to: the
config, the classes and a fingerprint of the frozen weights. Megabytes, not the backbone. Process 0
writes and reads them; the others hear from it, so that its disk alone must last.
"""

import json
import shutil
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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

CHECKSUMS = "checksums"  # beside what a checkpoint belongs to
SCORE = "score"  # its validation accuracy, where there is one
PACE_STEPS = 10  # from which a run's pace is first measured
Manager = ocp.CheckpointManager | None  # of process 0; the others have none


@contextmanager
def open_manager(workdir: Path, keep: int, best: bool = False) -> Iterator[Manager]:
    """The manager of `workdir`/checkpoints: saves in the background, whole or not at all.

    It keeps the newest `keep`, and with `best` that of the best score.
    """
    if jax.process_index() != 0:
        yield None
        return

    def score(metrics: dict[str, float]) -> float:
        return metrics[SCORE]

    folder = (workdir / "checkpoints").absolute()
    # what a killed save left; orbax's own cleaning is a thread that may outlive the program
    for torn in folder.glob(f"*{ocp.utils.TMP_DIR_SUFFIX}*"):
        shutil.rmtree(torn)
    folder.mkdir(exist_ok=True)
    kept: list[policies.PreservationPolicy] = [policies.LatestN(keep)]
    if best:
        kept += [policies.BestN(get_metric_fn=score, n=1, keep_checkpoints_without_metrics=False)]
    options = ocp.CheckpointManagerOptions(
        best_fn=score if best else None,  # without it scores are not saved
        preservation_policy=policies.AnyPreservationPolicy(kept),
        multiprocessing_options=ocp.options.MultiprocessingOptions(
            primary_host=0, active_processes={0}, barrier_sync_key_prefix="first"
        ),
        create=False,
    )
    with ocp.CheckpointManager(folder, options=options) as manager:
        yield manager


def save(manager: Manager, state: State, about: dict, score: float | None = None) -> None:
    """Saves under the state's step; returns once the arrays are copied, not yet written.

    Every process calls it. Raises UserError if an earlier save could not be written, for they are
    written meanwhile.
    """
    host = to_host(state)
    if manager is None:
        return
    about = {**about, CHECKSUMS: checksums(host)}
    args = ocp.args.Composite(state=ocp.args.StandardSave(host), about=ocp.args.JsonSave(about))
    with _writing(manager):
        manager.save(int(host.step), args=args, metrics=None if score is None else {SCORE: score})


def wait(manager: Manager) -> None:
    """Returns once everything is written. Raises UserError if it cannot be."""
    if manager is not None:
        with _writing(manager):
            manager.wait_until_finished()


def last(manager: Manager) -> str:
    """The newest complete checkpoint, for a message."""
    if manager is None:
        return "that of process 0"
    manager.wait_until_finished()
    step = manager.latest_step()
    return f"{manager.directory}/{step}" if step is not None else "none yet"


def describe(manager: Manager) -> dict | None:
    """What the newest checkpoint that says so belongs to; None where there is none.

    Raises UserError, on all processes, if there are some, but none can be read.
    """

    def read() -> dict | None:
        assert manager is not None
        faults = {}
        for step in _newest_first(manager):
            try:
                return _about(manager, step)
            except Exception as e:  # as in `restore`
                faults[step] = e
        if faults:
            raise _all_damaged(manager, faults)
        return None

    return processes.from_first(read)


def restore(manager: Manager, like: State, console: Console, best: bool = False) -> State:
    """The newest checkpoint's state, or that of the best score, placed as `like` is.

    A checkpoint that cannot be read, or whose values are not those that were saved, is moved aside
    and the one before it taken, which is told. Raises UserError, on all processes, if none is left.
    """
    leaves, structure = jax.tree.flatten(like)
    shapes = [np.zeros(leaf.shape, leaf.dtype) for leaf in leaves]

    def read() -> list[np.ndarray]:
        assert manager is not None
        host = _restore(manager, structure.unflatten(shapes), console, best)
        return [np.asarray(leaf) for leaf in jax.tree.leaves(host)]

    found = processes.arrays_from_first(read, shapes)
    placed = (put(array, leaf.sharding) for leaf, array in zip(leaves, found, strict=True))
    return structure.unflatten(placed)


def _restore(manager: ocp.CheckpointManager, like: State, console: Console, best: bool) -> State:
    steps = _newest_first(manager)
    if best:
        scores = {step: (manager.metrics(step) or {}).get(SCORE, -1.0) for step in steps}
        if max(scores.values(), default=-1.0) < 0:
            raise UserError(
                f"checkpoint.best is set, but no checkpoint in {manager.directory} has been "
                "validated: the run was trained without. Leave it out to test the newest."
            )
        steps = sorted(steps, key=lambda step: (scores[step], step), reverse=True)
    faults = {}
    for step in steps:
        try:
            wanted = _read(manager, step, "about", ocp.args.JsonRestore())[CHECKSUMS]
            state = _read(manager, step, "state", ocp.args.StandardRestore(like))
            if wrong := [name for name, sum in checksums(state).items() if wanted.get(name) != sum]:
                raise ValueError(f"the values of {wrong[0]} are not those that were saved")
        # Damage surfaces as nearly every kind of exception, and the remedy is the same for all.
        except Exception as e:
            faults[step] = e
            continue
        for bad, error in faults.items():
            aside = _move_aside(manager, bad)
            console.print(
                f"Warning: the checkpoint of step {bad} is damaged ({_line(error)}). It was moved "
                f"to {aside}, and the run continues from step {step}.",
                markup=False,
            )
        if faults:
            manager.reload()
        return state
    raise _all_damaged(manager, faults)


def chosen(workdir: Path) -> int | None:
    """The step of the best score, without scores the newest; None without checkpoints.

    Looks only, so that the run may be under way.
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
    """The state as NumPy arrays; what is cut over processes is gathered, by all of them."""

    def one(leaf: jax.Array) -> np.ndarray:
        if leaf.is_fully_addressable or leaf.is_fully_replicated:
            return np.asarray(leaf)
        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))

    return jax.tree.map(one, state)


def checksums(state: State) -> dict[str, int]:
    """The CRC-32 of every leaf's bytes, by path."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {
        jax.tree_util.keystr(path): zlib.crc32(np.ascontiguousarray(leaf).tobytes())
        for path, leaf in leaves
    }


class Cadence:
    """When to save: every so many steps, and before about so many minutes have gone by.

    All processes must save at the same step. So minutes are counted in steps, by the pace that
    process 0 has measured.
    """

    def __init__(
        self, steps: int, minutes: float, start: int, clock: Callable[[], float] = time.monotonic
    ):
        """`minutes` 0 counts steps alone; `start` are the steps done before."""
        self._steps, self._seconds, self._clock = steps, 60 * minutes, clock
        self._begun: tuple[int, float] | None = None  # the pace is measured from here
        self._next: int | None = None
        self._start = start

    def due(self, step: int) -> bool:
        """Whether to save after `step`; call it after every step, on every process."""
        if self._seconds:
            if step == self._start + 2:  # the first one has compiled
                self._begun = step, self._clock()
            elif step == self._start + 2 + PACE_STEPS:
                self._plan(step)
        timed = step == self._next
        if timed:
            self._plan(step)
        return timed or step % self._steps == 0

    def _plan(self, step: int) -> None:
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
    """Moves a damaged checkpoint out of the way; nothing is deleted."""
    folder = Path(manager.directory)
    aside = folder.parent / f"damaged_checkpoint_{step}"
    if aside.exists():
        shutil.rmtree(aside)
    (folder / str(step)).rename(aside)
    return aside


def _all_damaged(manager: ocp.CheckpointManager, faults: dict[int, Exception]) -> UserError:
    listed = "\n  ".join(f"{manager.directory}/{step}: {_line(e)}" for step, e in faults.items())
    return UserError(
        f"No checkpoint of this run can be read:\n  {listed}\nRestore them from a copy, delete "
        f"{manager.directory} to begin anew, or give another --workdir."
    )


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


@contextmanager
def _writing(manager: ocp.CheckpointManager) -> Iterator[None]:
    try:
        yield
    # orbax writes in the background and hands on whatever went wrong there
    except Exception as e:
        raise DiskError(
            f"Cannot save a checkpoint in {manager.directory}: {_line(e)}. Those that are complete "
            "are intact: make room, or the folder writable, and run the same command to continue."
        ) from e
