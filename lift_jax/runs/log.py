"""The training log of a run: log.jsonl and TensorBoard events.

Process 0 alone writes. The log grows line by line, so a kill may cut off its last line; `read_log`
drops such a line.
"""

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TextIO

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import (
    Event,  # pyright: ignore[reportAttributeAccessIssue]
    SessionLog,  # pyright: ignore[reportAttributeAccessIssue]
)
from tensorboardX.summary import scalar

from lift_jax.errors import UserError
from lift_jax.storage.atomic import move_aside, open_replacement, write_bytes
from lift_jax.storage.reading import RUN_BYTES, parse_json, read_bytes
from lift_jax.training.monitor import StepRecord

LOG = "log.jsonl"
FLUSH = 120.0  # seconds after which TensorBoard sees new values


class RunLog:
    """The log of a run folder, to which training steps are appended.

    Args:
        workdir: the run folder.
        active: False on all processes but the first, where every method does nothing.
    """

    def __init__(self, workdir: str | os.PathLike[str], active: bool):
        self.workdir = Path(workdir)
        self.active = active
        self._file: TextIO | None = None
        self._events: EventsWriter | None = None
        self._flush_at = 0.0

    def resume(self, step: int) -> float:
        """Drops everything after a step (0 empties the log) and opens the log to append.

        Returns the training seconds up to that step, 0 if none are logged or the log is not active.
        """
        if not self.active:
            return 0.0
        self.close()
        self.workdir.mkdir(parents=True, exist_ok=True)
        path = self.workdir / LOG
        kept = [line for line in read_log(path) if line.step <= step] if path.exists() else []
        with open_replacement(path) as file:
            file.writelines(_line(record) for record in kept)
        self._file = open(path, "a", encoding="utf-8")
        # Not a SummaryWriter: a full disk ends its thread, and then this one waits for ever.
        # The path is absolute, because tensorboardX sends paths like "gs:x" and "s3:x" elsewhere.
        # The suffix gives two files that begin in the same second different names.
        self._events = EventsWriter(str(self.workdir.absolute() / "events"), f".{step}")
        start = Event(step=step + 1, wall_time=time.time())
        start.session_log.status = SessionLog.START  # TensorBoard hides what was logged from here
        self._events.write_event(start)
        self._flush_at = 0.0
        return kept[-1].seconds if kept else 0.0

    def write(self, record: StepRecord) -> None:
        """Appends a training step; the first one drops what is logged from its step on."""
        if not self.active:
            return
        if self._file is None:
            self.resume(record.step - 1)
        assert self._file is not None
        self._file.write(_line(record))
        self._file.flush()
        names = ("loss", "lr", "images_per_second", "wait")
        self.scalars(record.step, {f"train/{name}": getattr(record, name) for name in names})

    def scalars(self, step: int, values: Mapping[str, float | None]) -> None:
        """Adds the values that are not None to the TensorBoard events, not to log.jsonl."""
        if not self.active:
            return
        if self._events is None:
            self.resume(step)
        assert self._events is not None
        for name, value in values.items():
            if value is not None:
                event = Event(step=step, wall_time=time.time(), summary=scalar(name, value))
                self._events.write_event(event)
        if time.monotonic() >= self._flush_at:
            self._events.flush()
            self._flush_at = time.monotonic() + FLUSH

    def close(self) -> None:
        """Closes the files; a later write opens them again."""
        with contextlib.ExitStack() as both:  # closes the second even if the first cannot be
            for file in filter(None, (self._file, self._events)):
                both.callback(file.close)
            self._file = self._events = None

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def read_log(path: str | os.PathLike[str]) -> list[StepRecord]:
    """Returns the steps of a log, without its last line if that was cut off.

    Raises UserError if the file cannot be read or any other line is broken.
    """
    lines = read_bytes(Path(path), RUN_BYTES).decode(errors="replace").splitlines()
    steps = []
    for number, line in enumerate(lines, 1):
        try:
            steps.append(_record(line, f"{path}: line {number}"))
        except (UserError, TypeError) as error:
            if number < len(lines):
                keys = ", ".join(field.name for field in dataclasses.fields(StepRecord))
                raise UserError(
                    f"{path}: line {number} is not a training step (a JSON object of {keys}); "
                    f"found {line[:60]!r}. Remove the line."
                ) from error
    return steps


def mend_log(path: Path, warn: Callable[[str], None]) -> None:
    """Moves a damaged training log aside and keeps the lines of it that can be read.

    A missing log becomes an empty one, because its lines cannot be made again. `warn` says so.
    """
    if not path.exists():
        warn(f"{path}, the training log, is missing. The run continues with a new one.")
        write_bytes(path, b"")
        return
    try:
        read_log(path)
    except UserError as error:
        aside = move_aside(path, path.with_name(f"damaged_{path.name}"))
        kept = _readable(aside)
        with open_replacement(path) as file:
            file.writelines(_line(record) for record in kept)
        warn(f"{error} It was moved to {aside}, and {len(kept)} lines of it are kept.")


def _readable(path: Path) -> list[StepRecord]:
    """Returns the steps of a damaged log that can be read; none if the file cannot."""
    steps = []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            steps.append(_record(line, str(path)))
        except (UserError, TypeError):
            continue
    return steps


def _record(line: str, where: str) -> StepRecord:
    """Returns the step of a line. Raises UserError or TypeError if it holds anything else."""
    record = StepRecord(**parse_json(line, where))
    for field in dataclasses.fields(StepRecord):
        kinds = int if field.type in (int, "int") else (int, float)
        value = getattr(record, field.name)
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise TypeError(f"{field.name} is no number")
    return record


def _line(record: StepRecord) -> str:
    """Returns the line of log.jsonl for a step."""
    return json.dumps(dataclasses.asdict(record)) + "\n"
