"""Checkpoints: when to save them, and how to write and read them with orbax.

A checkpoint holds the state (tuned leaves, optimizer, step) and a JSON description of its run: the
config, the classes and a fingerprint of the frozen weights. It takes megabytes, for it does not
hold the backbone. Process 0 writes and reads checkpoints and sends their content to the other
processes, so only its disk needs to be reliable.
"""

import json
import math
import shutil
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as policies
from rich.console import Console

from lift_jax.errors import DiskError, UserError, shown
from lift_jax.parallel import processes
from lift_jax.parallel.mesh import put
from lift_jax.storage import atomic
from lift_jax.storage.names import plain_name
from lift_jax.storage.reading import read_json
from lift_jax.training.state import State

UNFINISHED = f"*{ocp.utils.TMP_DIR_SUFFIX}*"  # folders of checkpoints being written
FOLDER = "checkpoints"  # in the run folder
METRICS = "metrics"  # folder in a checkpoint, and file in that folder, of its score
ABOUT = "about"  # folder of the description, and key of its own checksum
CHECKSUMS = "checksums"  # key in the description of a checkpoint
SCORE = "score"  # key of the validation accuracy in a checkpoint's metrics
PACE_STEPS = 10  # number of steps over which a run's pace is first measured
Warn = Callable[[str], None]  # shows a line


@dataclass(frozen=True)
class Unproven:
    """A checkpoint that has not been read back yet: step, checksums, and arrays of its shapes."""

    step: int
    checksums: dict[str, int]
    like: State


@dataclass
class Checkpoints:
    """The checkpoints of a run folder.

    Attributes:
        orbax: reads and writes them.
        directory: their folder, by the name that the user knows.
        unproven: the newest one, until it has been read back.
    """

    orbax: ocp.CheckpointManager
    directory: Path
    unproven: Unproven | None = None

    def line(self, error: Exception) -> str:
        """Returns the first line of an error's message, with the name that the user knows."""
        return _line(error).replace(str(self.orbax.directory), str(self.directory))


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
            f"{folder} is a file; the folder of the checkpoints belongs there. Put the folder "
            "back, or move the file away to begin anew."
        )
    folder.mkdir(exist_ok=True)
    # A killed save leaves its folder. Orbax cleans in a thread that may outlive the program.
    for unfinished in folder.glob(UNFINISHED):
        shutil.rmtree(unfinished)
    _move_broken_away(folder, warn)
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
        with plain_name(folder) as plain, ocp.CheckpointManager(plain, options=options) as manager:
            yield Checkpoints(manager, folder)
    finally:
        for unfinished in folder.glob(UNFINISHED):  # one that could not be written
            shutil.rmtree(unfinished, ignore_errors=True)
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
    wait(manager)  # orbax would, too
    sums, step = checksums(host), int(host.step)
    about = {**about, CHECKSUMS: {**sums, ABOUT: _about_checksum(about)}}
    args = ocp.args.Composite(state=ocp.args.StandardSave(host), about=ocp.args.JsonSave(about))
    with _writing(manager):
        manager.orbax.save(step, args=args, metrics=None if score is None else {SCORE: score})
    shapes = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), host)
    manager.unproven = Unproven(step, sums, shapes)


def wait(manager: Manager) -> None:
    """Waits until all checkpoints are written, and reads the newest one back.

    Raises DiskError if one cannot be written, or is not on the disk as it was saved.
    """
    if manager is None or manager.unproven is None:
        return
    newest, manager.unproven = manager.unproven, None
    with _writing(manager):
        manager.orbax.wait_until_finished()
        state = _read_state(manager, newest.step, newest.like)
        if checksums(state) != newest.checksums:  # an older one of the same step, not replaced
            raise ValueError(f"{manager.directory}/{newest.step} does not hold what was saved")


def newest_path(manager: Manager) -> str:
    """Returns the path of the newest complete checkpoint, as words for a message."""
    if manager is None:
        return "that of process 0"
    wait(manager)
    step = manager.orbax.latest_step()
    return f"{manager.directory}/{step}" if step is not None else "none yet"


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
            raise _all_damaged(manager.directory, faults)
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
    raise _all_damaged(manager.directory, faults)


def _best_first(manager: Checkpoints) -> list[int]:
    """Returns the steps of the checkpoints by falling score; those without a score come last."""
    steps = _newest_first(manager)
    if not (scores := _scores(manager.directory, steps)):
        raise UserError(
            f"checkpoint.best is set, but no checkpoint in {manager.directory} has been "
            "validated: the run was trained without. Leave it out to test the newest."
        )
    return _by_score(steps, scores)


def _by_score(steps: Iterable[int], scores: Mapping[int, float]) -> list[int]:
    """Returns steps by falling score, of equal scores the later first, those without one last."""
    return sorted(steps, key=lambda step: (scores.get(step, -math.inf), step), reverse=True)


def _scores(folder: Path, steps: Iterable[int]) -> dict[int, float]:
    """Returns the scores of the checkpoints that have one and whose score can be read."""
    scores = {}
    for step in steps:
        try:
            scores[step] = _score(folder / str(step))
        except UserError:
            continue
    return scores


def _score(checkpoint: Path) -> float:
    """Returns the score of one checkpoint. Raises UserError if there is none or it is broken."""
    path = checkpoint / METRICS / METRICS
    score = read_json(path).get(SCORE)
    if not isinstance(score, int | float):
        raise UserError(f"{path}: {SCORE} is {shown(score)}; expected a number.")
    return float(score)


def _move_broken_away(folder: Path, warn: Warn) -> None:
    """Moves what orbax stumbles over out of the folder of checkpoints: broken scores, stray files.

    A checkpoint whose score is broken stays, as one that has not been validated.
    """
    for path in sorted(folder.iterdir()):
        if not path.name.isdigit():
            continue
        if not path.is_dir():
            aside = atomic.move_aside(path, folder.parent / f"damaged_checkpoint_{path.name}")
            warn(f"{path} is not the folder of a checkpoint. It was moved to {aside}.")
        elif (path / METRICS).exists():
            try:
                _score(path)
            except UserError as e:
                name = f"damaged_checkpoint_{path.name}_{METRICS}"
                aside = atomic.move_aside(path / METRICS, folder.parent / name)
                warn(
                    f"the validation accuracy of the checkpoint of step {path.name} is damaged "
                    f"({_line(e)}). It was moved to {aside}, and that checkpoint counts as not "
                    "validated."
                )


def _read_state(manager: Checkpoints, step: int, like: State) -> State:
    """Reads the state of one checkpoint. Raises ValueError if a checksum or the step is wrong."""
    _, expected = _split(_read(manager, step, ABOUT, ocp.args.JsonRestore()))
    state = _read(manager, step, "state", ocp.args.StandardRestore(like))
    _compare(checksums(state), expected)
    if int(state.step) != step:
        raise ValueError(f"it holds step {int(state.step)}")
    return state


def _compare(found: Mapping[str, int], saved: Mapping[str, int]) -> None:
    """Raises ValueError, which names a leaf, if checksums are not those that were saved."""
    if wrong := [name for name, value in found.items() if saved.get(name) != value]:
        raise ValueError(f"the values of {wrong[0]} are not those that were saved")


def best_first(workdir: Path) -> list[int]:
    """Returns the steps of a run folder's checkpoints by falling score, or else the newest first.

    Changes nothing, so the run may be in progress.
    """
    folder = workdir / FOLDER
    if not folder.is_dir():
        return []
    steps = [int(path.name) for path in folder.iterdir() if path.name.isdigit()]
    return _by_score(steps, _scores(folder, steps))


def read_tuned(workdir: Path, warn: Warn) -> tuple[dict[str, np.ndarray], dict] | None:
    """Returns the tuned leaves of the best checkpoint by validation, without scores of the newest,
    and its description of the run. Returns None if there is no checkpoint.

    If it is damaged, `warn` says so and the one before is read. Changes nothing, so the run may be
    in progress. Raises UserError if none can be read.
    """
    folder = (workdir / FOLDER).absolute()
    if not (steps := best_first(workdir)):
        return None
    for step in sorted(set(steps) - _scores(folder, steps).keys()):
        if (file := folder / str(step) / METRICS).exists():
            warn(f"{file} is damaged, so that checkpoint counts as not validated.")
    faults: dict[int, str] = {}
    with plain_name(folder) as plain:
        for step in steps:
            try:
                found = _read_tuned(plain / str(step), step)
            except Exception as e:  # damage surfaces as nearly every kind of exception
                faults[step] = _line(e).replace(str(plain), str(folder))
                continue
            for damaged, fault in faults.items():
                warn(
                    f"the checkpoint {folder}/{damaged} is damaged ({fault}). The one of step "
                    f"{step} is used."
                )
            return found
    raise _all_damaged(folder, faults)


def _read_tuned(checkpoint: Path, step: int) -> tuple[dict[str, np.ndarray], dict]:
    """Reads tuned leaves and description of one checkpoint. Raises ValueError for a wrong one."""
    text = (checkpoint / ABOUT / "metadata").read_text(encoding="utf-8")
    about, expected = _split(json.loads(text))
    reader = ocp.PyTreeCheckpointer()
    saved = reader.metadata(checkpoint / "state").item_metadata
    if saved is None:
        raise ValueError("its metadata cannot be read")
    wanted = {"step": saved.tree["step"], "tuned": saved.tree["tuned"]}
    host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
    args = ocp.args.PyTreeRestore(item=wanted, restore_args=host, partial_restore=True)
    found = reader.restore(checkpoint / "state", args=args)
    _compare(checksums(State(found["step"], found["tuned"], ())), expected)
    if int(found["step"]) != step:
        raise ValueError(f"it holds step {int(found['step'])}")
    return found["tuned"], about


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


def _newest_first(manager: Checkpoints) -> list[int]:
    return sorted(manager.orbax.all_steps(), reverse=True)


def _about(manager: Checkpoints, step: int) -> dict:
    return _split(_read(manager, step, ABOUT, ocp.args.JsonRestore()))[0]


def _split(about: dict) -> tuple[dict, dict[str, int]]:
    """Returns a description and the checksums that are saved with it.

    Raises ValueError if it is not the one that was saved; earlier versions saved no checksum of it.
    """
    if not isinstance(about, dict) or not isinstance(about.get(CHECKSUMS), dict):
        raise ValueError("its description is not one of a checkpoint")
    about = dict(about)
    sums = about.pop(CHECKSUMS)
    if sums.get(ABOUT, _about_checksum(about)) != _about_checksum(about):
        raise ValueError("its description is not the one that was saved")
    return about, sums


def _about_checksum(about: dict) -> int:
    return zlib.crc32(json.dumps(about, sort_keys=True).encode())


def _read(manager: Checkpoints, step: int, item: str, args: ocp.args.CheckpointArgs) -> Any:
    return manager.orbax.restore(step, args=ocp.args.Composite(**{item: args}))[item]


def _move_aside(manager: Checkpoints, step: int) -> Path:
    """Moves a damaged checkpoint out of its folder and returns its new path."""
    name = f"damaged_checkpoint_{step}"
    return atomic.move_aside(manager.directory / str(step), manager.directory.parent / name)


def _all_damaged(folder: Path, faults: dict[int, str]) -> UserError:
    lines = "\n  ".join(f"{folder}/{step}: {fault}" for step, fault in faults.items())
    return UserError(
        f"No checkpoint of this run can be read:\n  {lines}\nRestore them from a copy, delete "
        f"{folder} to begin anew, or give another --workdir."
    )


def _line(error: Exception) -> str:
    """Returns the first line of an error's message, or its type."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


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
