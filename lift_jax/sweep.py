"""Many runs in one folder, and the table over them: `--sweep=losses`, `--seeds=5`.

A cell is a config with some of its values changed, and is run with one seed or several; each run is
an ordinary run folder, CELL/seed_S. Runs that are finished are not run again, so a sweep continues
where it stopped, and several machines that share the folder may each take a part of the cells.
"""

import json
import re
import shutil
import statistics
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils
from matplotlib.figure import Figure
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from lift_jax import build, distributed, log, plots, report, train
from lift_jax import config as config_lib
from lift_jax import folder as run_folder
from lift_jax.data import loader
from lift_jax.errors import UserError

Changes = Mapping[str, Any]  # dotted key of the config -> value
TITLES = {
    "zero_shot": "zero-shot", "test": "", "test_adjusted": "adjusted", "test_tte": "with TTE",
    "test_tte_adjusted": "with TTE, adjusted",
}  # fmt: skip
PANELS = {  # of the figure
    "zero_shot": "zero-shot", "test": "one crop", "test_adjusted": "one crop, adjusted",
    "test_tte": "TTE", "test_tte_adjusted": "TTE, adjusted",
}  # fmt: skip
WIDTH = 120  # characters of the table where there is no terminal
COLUMNS = ("overall", "many", "medium", "few", "mean")
# What changes neither training nor results, so that a finished run stays finished.
IDLE = (
    "checkpoint.every_steps", "checkpoint.every_minutes", "checkpoint.keep", "mesh", "train.accum",
    "train.remat", "data.workers", "data.features_gb",
)  # fmt: skip
# What changes how a run is tested, and not its training.
TESTED = ("test.tte", "test.crops", "test.expand", "test.views", "test.adjust")
Runs = Mapping[str, Mapping[Path, ConfigDict]]  # cell -> folder -> config


@dataclass(frozen=True)
class Row:
    """A line of the table: a cell's result of one kind over its finished seeds.

    Attributes:
        cell: its name, empty for the zero-shot result of all cells.
        result: a key of TITLES.
        tuned, head: parameters.
        values: percent by column and seed; None where a group of classes is empty.
        published: overall accuracy in percent that is published for exactly this, if there is one.
    """

    cell: str
    result: str
    tuned: int
    head: int
    values: Mapping[str, Sequence[float | None]]
    published: float | None = None

    @property
    def name(self) -> str:
        return " ".join(filter(None, (self.cell, TITLES[self.result])))

    @property
    def runs(self) -> int:
        return len(self.values["overall"])

    def mean(self, column: str) -> float | None:
        values = self.values[column]
        return None if None in values else statistics.fmean(values)  # type: ignore[arg-type]

    def std(self, column: str) -> float | None:
        """The standard deviation of the seeds as a sample; None for a single seed."""
        values = self.values[column]
        return None if None in values or len(values) < 2 else statistics.stdev(values)  # type: ignore[arg-type]

    @property
    def difference(self) -> float | None:
        """Overall accuracy minus the published one, in percent."""
        mean = self.mean("overall")
        return None if self.published is None or mean is None else mean - self.published


def run(
    cells: Mapping[str, ConfigDict],
    workdir: str | Path,
    *,
    title: str,
    mode: str = "train",
    seeds: int = 1,
    part: str = "",
    published: Mapping[str, Mapping[str, float]] | None = None,
    notes: Sequence[str] = (),
) -> list[Row]:
    """Runs every cell with `seeds` seeds, from its config's on; writes and shows the table.

    A cell that fails by a UserError is a note below the table, and the others are run.

    Args:
        cells: the configs by name, which is a folder's: one named "" has its runs directly in
            `workdir`.
        workdir: the folder of all runs and of the table: sweep.csv, sweep.md and sweep.png.
        title: what is compared.
        mode: that of every run, train or zero_shot.
        seeds: runs a cell.
        part: "i/n" runs only every n-th cell, from the i-th, and shows the table of what is
            finished; a call without it writes the table.
        published: overall accuracies in percent by cell and result.
        notes: lines below the table.

    Raises:
        UserError: for wrong arguments before anything is run, and in the end if a cell failed.
    """
    if seeds < 1:
        raise UserError(f"--seeds is {seeds}; it must be at least 1.")
    chosen = take(list(cells), part)
    workdir = run_folder.open_workdir(workdir)
    runs: Runs = {
        name: {workdir / name / f"seed_{s}": seeded(c, s) for s in range(c.seed, c.seed + seeds)}
        for name, c in cells.items()
    }
    if seeds > 1:
        notes = [*notes, f"Mean ± standard deviation (of a sample) of {seeds} seeds."]
    console = Console(quiet=jax.process_index() != 0)
    failed: dict[str, list[str]] = {}  # the runs by the message

    def results() -> tuple[list[Row], list[str]]:
        table = rows(runs, published or {}, mode)
        lines = [*notes, *unfinished(runs, mode)]
        lines += [f"Failed: {', '.join(which)}. {message}" for message, which in failed.items()]
        if jax.process_index() == 0 and not part:  # machines with parts would write at once
            write(workdir, title, table, lines)
        return table, lines

    for name in chosen:
        for folder, c in runs[name].items():
            if distributed.of_first(partial(finished, folder, c, mode)):
                continue
            where = str(folder.relative_to(workdir))
            console.rule(f"{title}: {where}")
            try:
                if jax.process_index() == 0 and mode == "train":
                    borrow(folder, c, runs)
                multihost_utils.sync_global_devices(where)
                train.run(c, folder, mode)
            except UserError as e:
                failed.setdefault(str(e), []).append(where)
                console.print(f"Failed: {e}", markup=False)
                continue
            if jax.process_index() == 0:
                report.write(folder)
            results()
    table, lines = results()
    if not console.is_terminal:
        console.width = WIDTH
    if table:
        console.print(rich_table(title, table))
    for line in lines:
        console.print(line, markup=False, highlight=False)
    if failed:
        count = sum(map(len, failed.values()))
        raise UserError(f"{count} runs failed, see above. The same command tries them again.")
    return table


# -- the cells


def take(names: Sequence[str], part: str) -> list[str]:
    """The names that `part`, "i/n", gives: every n-th from the i-th; all for ""."""
    if not part:
        return list(names)
    match = re.fullmatch(r"(\d+)/(\d+)", part)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(
            f"--sweep_cells is {part!r}; give i/n with i from 1 to n, as in 2/4 for the second of "
            "four machines."
        )
    return list(names)[int(match[1]) - 1 :: int(match[2])]


def settle(config: ConfigDict, cells: Mapping[str, Changes]) -> dict[str, ConfigDict]:
    """The configs of all cells. Raises UserError for one that is not valid or has no such key."""
    settled = {}
    for name, changes in cells.items():
        settled[name] = deepcopy(config)
        try:
            settled[name].update_from_flattened_dict(dict(changes))
            build.check(settled[name])
        except (KeyError, AttributeError, TypeError, UserError) as e:
            raise UserError(f"The cell {name!r} of the sweep: {e}") from e
    return settled


def seeded(config: ConfigDict, seed: int) -> ConfigDict:
    changed = deepcopy(config)
    changed.seed = seed
    return changed


# -- the runs


def finished(folder: Path, config: ConfigDict, mode: str = "train") -> dict | None:
    """What metrics.json says of a run of this config that has nothing left to do, else None.

    Data and backbone are not opened, which makes this fast: a run with another place of them is
    left to `train.run`, which compares their content.
    """
    try:
        about = json.loads((folder / run_folder.CONFIG).read_text(encoding="utf-8"))
        found = json.loads((folder / run_folder.METRICS).read_text(encoding="utf-8"))
        images = sum(about.pop("data_summary")["counts"])
        steps = loader.steps_per_epoch(images, config.train.batch) * config.train.epochs
        trained = found["steps"] == steps and found["test"] is not None
        whole = trained if mode == "train" else found["zero_shot"] is not None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not begun, not tested yet, or a file that somebody changed
    return found if whole and same(about, run_folder.plain(config), IDLE) else None


def borrow(folder: Path, config: ConfigDict, runs: Runs) -> None:
    """Copies the training of a finished run that differs only in how it is tested, if there is one.

    What is left to do in the folder is then to test.
    """
    if (folder / "checkpoints").exists():
        return
    for other, c in ((other, c) for cell in runs.values() for other, c in cell.items()):
        trained = (other / "checkpoints").exists() and finished(other, c)
        if trained and same(run_folder.plain(c), run_folder.plain(config), TESTED):
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(other / log.LOG, folder / log.LOG)
            torn = folder / ".checkpoints.tmp"  # a copy is whole or absent
            shutil.rmtree(torn, ignore_errors=True)
            shutil.copytree(other / "checkpoints", torn)
            torn.rename(folder / "checkpoints")
            return


def same(a: dict, b: dict, but: Sequence[str]) -> bool:
    """Whether two configs differ in nothing but these groups and keys."""
    return all(
        any(line.startswith((f"{key}:", f"{key}.")) for key in but)
        for line in config_lib.differences(a, b)
    )


# -- the table


def rows(
    runs: Runs, published: Mapping[str, Mapping[str, float]], mode: str = "train"
) -> list[Row]:
    """The table of all finished runs; the zero-shot result once where it is that of all cells."""
    firsts = [next(iter(cell.values())) for cell in runs.values()]
    once = len({f"{c.data}{c.model}{c.head.prompt}{c.head.descriptors}" for c in firsts}) == 1
    once = once and mode == "train"
    found: list[Row] = []
    for (name, cell), first in zip(runs.items(), firsts, strict=True):
        results = [r for folder, c in cell.items() if (r := finished(folder, c, mode))]
        for result in TITLES:
            zero = result == "zero_shot"
            absent = not results or any(r.get(result) is None for r in results)
            if absent or (zero and once and found):
                continue
            found.append(
                Row(
                    cell="" if zero and once else called(name, first),
                    result=result,
                    tuned=0 if zero else results[0]["tuned_params"],
                    head=0 if zero else results[0]["head_params"],
                    values={key: [r[result][key] for r in results] for key in COLUMNS},
                    published=published.get(name, {}).get(result),
                )
            )
    return found


def unfinished(runs: Runs, mode: str = "train") -> list[str]:
    """A note that names the cells whose runs are not all finished; none if there are no such."""
    counts = {
        called(name, next(iter(cell.values()))): [
            finished(folder, c, mode) is not None for folder, c in cell.items()
        ]
        for name, cell in runs.items()
    }
    names = [
        name + (f" ({sum(done)} of {len(done)} seeds)" if any(done) else "")
        for name, done in counts.items()
        if not all(done)
    ]
    return [f"Not finished: {', '.join(names)}."] if names else []


def called(name: str, config: ConfigDict) -> str:
    """What the table calls a cell: the only one of a seed study has the name of its method."""
    return name or log.result_names(config.tuner.name, config.label, config.text_tuner.name)["test"]


def headings(table: Sequence[Row]) -> list[str]:
    compared = any(row.published is not None for row in table)
    return ["", "tuned", *COLUMNS, *(("published", "difference") if compared else ())]


def texts(row: Row) -> list[str]:
    """A line of the table as it is read, the published number and the difference last."""

    def number(column: str) -> str:
        mean, std = row.mean(column), row.std(column)
        if mean is None:
            return "–"
        return f"{mean:.2f}" if std is None else f"{mean:.1f} ± {std:.1f}"

    published = "" if row.published is None else f"{row.published:.1f}"
    difference = "" if row.difference is None else f"{row.difference:+.1f}"
    return [row.name, f"{row.tuned:,}", *map(number, COLUMNS), published, difference]


def rich_table(title: str, table: Sequence[Row]) -> Table:
    made = Table(title=f"{title}: accuracy in %", title_justify="left")
    columns = headings(table)
    for i, heading in enumerate(columns):
        made.add_column(heading, justify="right" if i else "left", overflow="fold")
    for row in table:
        made.add_row(*texts(row)[: len(columns)])
    return made


def write(workdir: Path, title: str, table: Sequence[Row], notes: Sequence[str]) -> None:
    """Writes sweep.csv, sweep.md and, of a table with lines, sweep.png."""
    header = ["cell", "result", "runs", "tuned_params", "head_params"]
    header += [name for key in COLUMNS for name in (key, f"{key}_std")]
    log.write_csv(
        workdir / "sweep.csv",
        [*header, "published", "difference"],
        (
            [row.cell, row.result, row.runs, row.tuned, row.head]
            + [value for key in COLUMNS for value in (row.mean(key), row.std(key))]
            + [row.published, row.difference]
            for row in table
        ),
    )
    columns = headings(table)
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)]]
    lines += [texts(row)[: len(columns)] for row in table]
    with log.replacing(workdir / "sweep.md") as file:
        file.write(f"{title}: accuracy in %\n\n")
        file.writelines(f"| {' | '.join(line)} |\n" for line in lines)
        file.writelines(f"\n{note}\n" for note in notes)
    if table:
        plots.write(figure(title, table), workdir / "sweep.png")


def figure(title: str, table: Sequence[Row]) -> Figure:
    """A panel a kind of result; the zero-shot result of all cells stands in the title."""
    cells = list(dict.fromkeys(row.cell for row in table if row.cell))
    panels: dict[str, dict[str, dict[str, plots.Point]]] = {}
    for row in table:
        if row.cell:
            points = {key: (row.mean(key), row.std(key)) for key in COLUMNS}
            panels.setdefault(PANELS[row.result], {})[row.cell] = points
    alone = [f"zero-shot {texts(row)[2]} overall" for row in table if not row.cell]
    return plots.sweep_figure("; ".join([title, *alone]), cells, panels)
