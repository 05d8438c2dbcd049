"""What a run writes and shows: its log, its progress, and the tables of parameters and results.

Only the first host writes and shows; on the others everything here does nothing. A file is complete
or absent, never half: it is written under a temporary name and renamed. The log alone grows, so its
last line may be torn by a kill; readers drop such a line.
"""

import csv
import dataclasses
import errno
import json
import math
import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, TextIO

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Table
from tensorboardX import SummaryWriter

from lift_jax.errors import DiskError, UserError

LOG = "log.jsonl"
PLAIN_SECONDS = 30.0  # between lines of progress where there is no terminal
EPOCH_SECONDS = 1.0  # the same at the end of an epoch
WAIT_HINT = 0.1  # share of time spent waiting for data above which a hint is shown
WAIT_STEPS = 20  # steps over which that share is averaged


@dataclasses.dataclass(frozen=True)
class Step:
    """One line of the log: a training step. Steps count from 1, epochs from 0.

    `wait` is the share of the step's time that was spent waiting for data, `seconds` the training
    time so far, over all continuations of the run.
    """

    step: int
    epoch: int
    loss: float
    lr: float
    images_per_second: float
    wait: float
    seconds: float


class RunLog:
    """Appends training steps to log.jsonl and to TensorBoard events in the run folder."""

    def __init__(self, workdir: str | os.PathLike[str], active: bool):
        self.workdir = Path(workdir)
        self.active = active
        self._file: TextIO | None = None
        self._events: SummaryWriter | None = None

    def resume(self, step: int) -> float:
        """Drops everything after a step (0 empties the log) and opens the log to append.

        Returns:
            The training seconds up to that step, 0 if none are logged or on other hosts.
        """
        if not self.active:
            return 0.0
        self.close()
        self.workdir.mkdir(parents=True, exist_ok=True)
        path = self.workdir / LOG
        kept = [line for line in read_log(path) if line.step <= step] if path.exists() else []
        with replacing(path) as file:
            file.writelines(_line(record) for record in kept)
        self._file = open(path, "a", encoding="utf-8")
        # The suffix, because two files begun in the same second would have the same name.
        self._events = SummaryWriter(
            str(self.workdir), purge_step=step + 1, filename_suffix=f".{step}"
        )
        return kept[-1].seconds if kept else 0.0

    def write(self, record: Step) -> None:
        """Appends one training step; the first one replaces what is logged from its step on."""
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
        """Adds values to the TensorBoard events alone, leaving out those that are None."""
        if not self.active:
            return
        if self._events is None:
            self.resume(step)
        assert self._events is not None
        for name, value in values.items():
            if value is not None:
                self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """Closes the files; writing later opens them again."""
        if self._file is not None:
            self._file.close()
        if self._events is not None:
            self._events.close()
        self._file = self._events = None

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def read_log(path: str | os.PathLike[str]) -> list[Step]:
    """Returns the steps of a log, without its last line if that was torn.

    Raises:
        UserError: if the file is absent, or any other line is broken.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise UserError(f"{path}: cannot read the training log: {error.strerror}.") from error
    steps = []
    for number, line in enumerate(lines, 1):
        try:
            steps.append(Step(**json.loads(line)))
        except (ValueError, TypeError) as error:
            if number < len(lines):
                keys = ", ".join(field.name for field in dataclasses.fields(Step))
                raise UserError(
                    f"{path}: line {number} is not a training step (a JSON object of {keys}); "
                    f"found {line[:60]!r}. Remove the line."
                ) from error
    return steps


def _line(record: Step) -> str:
    return json.dumps(dataclasses.asdict(record)) + "\n"


@contextmanager
def on_disk(folder: Path) -> Iterator[None]:
    """Around what writes to a folder: raises DiskError where its disk cannot take more."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES):
            raise
        raise DiskError(
            f"Cannot write {error.filename or f'to {folder}'}: {error.strerror}. The checkpoints "
            "that are complete are intact: make room, or the folder writable, and run the same "
            "command to continue."
        ) from error


def cache_folder() -> Path:
    """Where this program may keep what it can make again: the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lift_jax"


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[TextIO]:
    """Opens a text file that takes the path's name when the block ends, unless it raises."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # a rename may outrun the data when the machine stops
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes JSON; NumPy numbers and arrays are taken, NaN and infinity raise ValueError."""

    def plain(item: Any) -> Any:
        if isinstance(item, np.ndarray | np.generic):
            return item.tolist()
        raise TypeError(f"{type(item).__name__} does not fit into JSON")

    with replacing(path) as file:
        file.write(json.dumps(value, indent=2, default=plain, allow_nan=False) + "\n")


def write_csv(
    path: str | os.PathLike[str], header: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """Writes a table with a header; None and NaN become empty cells."""

    def cell(item: Any) -> Any:
        return "" if item is None or (isinstance(item, float) and math.isnan(item)) else item

    with replacing(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows([cell(item) for item in row] for row in rows)


class Progress:
    """Shows training as a live bar on a terminal, elsewhere as a line now and then.

    A line comes after the first step, at the ends of epochs and every 30 seconds. If waiting for
    data takes more than 10 % of the time, one hint says what to do.

    Args:
        steps: of the whole run.
        epochs: of the whole run.
        start: steps done before.
        active: false on all hosts but the first.
        console: where to; standard output by default.
    """

    def __init__(
        self,
        steps: int,
        epochs: int,
        start: int = 0,
        active: bool = True,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.steps = steps
        self.epochs = epochs
        self.active = active
        self._console = console or Console()
        self._clock = clock
        self._first: tuple[float, int] | None = None  # when the first step was done, and which
        self._shown = -math.inf
        self._waits: deque[float] = deque(maxlen=WAIT_STEPS)
        self._hinted = False
        self._bar = None
        if active and self._console.is_terminal:
            columns = TextColumn("step {task.completed}/{task.total}"), BarColumn(bar_width=None)
            text = TextColumn("{task.fields[text]}")
            self._bar = RichProgress(*columns, text, console=self._console)
            self._task = self._bar.add_task("", total=steps, completed=start, text="compiling")

    def __enter__(self) -> "Progress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar:
            self._bar.stop()

    def update(self, record: Step) -> None:
        """Shows one training step."""
        if not self.active:
            return
        now = self._clock()
        if self._first is None:  # its time holds compilation and the start of the data workers
            self._first = now, record.step
        else:
            self._waits.append(record.wait)
        text = (
            f"epoch {record.epoch + 1}/{self.epochs} · loss {record.loss:.4f} · "
            f"{record.images_per_second:,.0f} images/s · {self._left(record.step, now)} left · "
            f"waiting {record.wait:.0%}"
        )
        if self._bar:
            self._bar.update(self._task, completed=record.step, text=text)
        else:
            epoch_ends = record.step * self.epochs % self.steps < self.epochs
            pause = EPOCH_SECONDS if epoch_ends else PLAIN_SECONDS
            if now - self._shown >= pause or record.step == self.steps:
                self._shown = now
                self._print(f"step {record.step}/{self.steps} · {text}")
        self._hint()

    def _left(self, step: int, now: float) -> str:
        assert self._first is not None
        begin, first = self._first
        if step == first:
            return "?"
        seconds = round((now - begin) / (step - first) * (self.steps - step))
        hours, minutes = seconds // 3600, seconds // 60 % 60
        return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{seconds % 60:02}s"

    def _hint(self) -> None:
        if self._hinted or len(self._waits) < WAIT_STEPS:
            return
        share = sum(self._waits) / len(self._waits)
        if share > WAIT_HINT:
            self._hinted = True
            self._print(
                f"Hint: {share:.0%} of the time goes into waiting for data. Prepare the images "
                "once (python -m lift_jax.data --prepare --config=...), set data.decode=fast, or "
                "raise data.workers."
            )

    def tell(self, line: str) -> None:
        """Shows a line above the bar."""
        if self.active:
            self._print(line)

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


class Parameter(NamedTuple):
    """One array of a model: its path with slashes, its shape, and what becomes of it."""

    name: str
    shape: tuple[int, ...]
    kind: Literal["tuned", "head", "frozen"]


def parameter_counts(parameters: Iterable[Parameter]) -> dict[str, int]:
    """Returns the numbers of tuned, head and frozen parameters."""
    counts = {"tuned": 0, "head": 0, "frozen": 0}
    for parameter in parameters:
        counts[parameter.kind] += math.prod(parameter.shape)
    return counts


def parameter_table(parameters: Iterable[Parameter]) -> Table:
    """Returns a table of what is trained and what is frozen, and its share of all parameters.

    A tuner's leaves share a row over all layers, the frozen ones a row for each part of the model.
    """
    parameters = list(parameters)
    rows: dict[tuple[str, str], list[int]] = {}
    for parameter in parameters:
        name = re.sub(r"(?<=/)\d+(?=/)", "*", parameter.name)
        tuned = r".*/tuners/[^/]+|.*/blocks/\*|"  # up to the tuner, or to the block
        inside = "" if parameter.kind == "head" else "head/[^/]+|"
        part = re.match(f"{tuned * (parameter.kind == 'tuned')}{inside}[^/]+", name)
        assert part is not None
        rows.setdefault((part[0], parameter.kind), []).append(math.prod(parameter.shape))
    everything = sum(map(sum, rows.values()))

    table = Table(title="Parameters", title_justify="left")
    for column in ("part", "", "arrays", "parameters", "share"):
        table.add_column(column, justify="left" if column in ("part", "") else "right")
    for (part, kind), sizes in sorted(rows.items(), key=lambda row: row[0][1] == "frozen"):
        count = sum(sizes)
        share = f"{count / everything:.3%}"
        table.add_row(part, kind, str(len(sizes)), f"{count:,}", share)
    return table


def result_names(tuner: str, label: str, text_tuner: str = "none") -> dict[str, str]:
    """Returns what to call the results of a run (keys of metrics.json) in tables and figures.

    Args:
        tuner: `tuner.name` of the config.
        label: the method's name, `label` of the config.
        text_tuner: `text_tuner.name` of the config.
    """
    names = {
        "none": "classifier only", "full": "full fine-tuning", "coop": "CoOp",
        "clip_adapter": "CLIP-Adapter", "proj": "projections only",
    }  # fmt: skip
    method = names.get(tuner, label)
    if tuner == "none" and text_tuner != "none":
        method = f"{text_tuner} of texts"
    return {
        "zero_shot": "zero-shot", "test": method, "test_adjusted": f"{method}, adjusted",
        "test_tte": f"{method} with TTE", "test_tte_adjusted": f"{method} with TTE, adjusted",
    }  # fmt: skip


def results_table(rows: Mapping[str, Mapping[str, Any] | None]) -> Table:
    """Returns a table of summaries (`metrics.summarise`) by row name; a None row is left out."""
    table = Table(title="Accuracy in %", title_justify="left")
    table.add_column("")
    columns = ("overall", "many", "medium", "few", "mean")
    for column in columns:
        table.add_column(column, justify="right")
    for name, summary in rows.items():
        if summary is not None:
            values = (summary[column] for column in columns)
            table.add_row(name, *("–" if value is None else f"{value:.2f}" for value in values))
    return table
