"""Sweeps and seed studies: all runs of a table, in one folder: `--sweep=losses`, `--seeds=5`.

A cell is a config with some of its values changed. It is run with one seed or several, each in an
ordinary run folder, CELL/seed_S. Finished runs are not run again, so a sweep continues where it
stopped, and several machines that share the folder may each take a part of the cells.
"""

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict
from rich.console import Console

from lift_jax.errors import DiskError, UserError
from lift_jax.evaluation.metrics import COLUMNS
from lift_jax.output.terminal import Terminal
from lift_jax.parallel import processes
from lift_jax.parallel.agreement import agree
from lift_jax.reports import report
from lift_jax.reports.parts import consistency_comparison
from lift_jax.runs.finished_run import load
from lift_jax.runs.folder import open_workdir, writing
from lift_jax.runs.train_and_test import train_and_test
from lift_jax.settings import words
from lift_jax.settings.common import common_settings, flatten
from lift_jax.settings.parse import parse, to_dict
from lift_jax.sweeps import table
from lift_jax.sweeps.finished_runs import Results, Runs, borrow, finished, results_of
from lift_jax.sweeps.folder import check_same
from lift_jax.sweeps.table import TITLES, Row
from lift_jax.training.classifier import check_names

Changes = Mapping[str, Any]  # dotted key of the config -> value
Published = Mapping[str, Mapping[str, Mapping[str, float]]]  # cell -> result -> column -> percent
MOST_SEEDS = 1000  # of --seeds: more are a slip, and their configs alone would fill the memory
WIDTH = 120  # characters of the table if there is no terminal


def run_sweep(
    cells: Mapping[str, ConfigDict],
    workdir: str | Path,
    *,
    title: str,
    mode: str = "train",
    seeds: int = 1,
    part: str = "",
    published: Published | None = None,
    notes: Sequence[str] = (),
    of_features: bool = False,
    crossed: str = "",
) -> list[Row]:
    """Runs every cell with `seeds` seeds, counted up from its config's; writes and shows the table.

    If a cell fails by a UserError, a note below the table says so, and the other cells are run.

    Args:
        cells: the configs by name. The name is also that of the cell's folder; a cell named "" has
            its runs directly in `workdir`.
        workdir: the folder of all runs and of the table: sweep.csv, sweep.md and sweep.png.
        title: title of the table, which says what is compared.
        mode: mode of every run, train or zero_shot.
        seeds: number of runs for each cell.
        part: "i/n" runs only every n-th cell, from the i-th, and shows the table of what is
            finished; a call without it writes the table.
        published: published accuracies in percent by cell, result and column of the table.
        notes: lines below the table.
        of_features: True to compare the features of the runs of the first seed as well, in
            sweep_distances.png, sweep_similarity.png and lines below the table.
        crossed: what the cells cross with learning rates (`cells.CROSSED`), for a heat map.

    Raises:
        UserError: if an argument is wrong, or another sweep is in the folder, before anything is
            run; if a cell failed, at the end.
    """
    if not 1 <= seeds <= MOST_SEEDS:
        raise UserError(f"--seeds is {seeds}; it must be at least 1 and at most {MOST_SEEDS:,}.")
    chosen = take(list(cells), part)
    for name, config in cells.items():
        agree({f"{k} (cell {name!r})": v for k, v in common_settings(to_dict(config)).items()})
    workdir = open_workdir(workdir)
    runs = {
        name: {workdir / name / f"seed_{s}": seeded(c, s) for s in range(c.seed, c.seed + seeds)}
        for name, c in cells.items()
    }
    if seeds > 1:
        notes = [*notes, f"Mean ± standard deviation (of a sample) of {seeds} seeds."]
    console = Terminal(quiet=jax.process_index() != 0)
    whole = not part
    sweep = Sweep(
        title, workdir, runs, mode, published or {}, notes, console, whole, of_features, crossed
    )
    with writing(workdir, f"_{part.replace('/', '_of_')}" if part else ""):
        sweep.run_all(chosen)
        return sweep.show()


@dataclass(frozen=True)
class Sweep:
    """A sweep under way.

    Attributes:
        title: title of the table, which says what is compared.
        workdir: the folder of all runs.
        runs: the configs by cell and run folder.
        mode: mode of every run, train or zero_shot.
        published: published accuracies in percent by cell, result and column of the table.
        notes: lines below the table.
        console: console that is quiet on all processes but the first.
        whole: False if another machine runs other cells and the table is not written.
        of_features: True if the features of the runs are compared as well.
        crossed: what the cells cross with learning rates, "" if they do not.
        failed: the runs that failed, by message.
    """

    title: str
    workdir: Path
    runs: Runs
    mode: str
    published: Published
    notes: Sequence[str]
    console: Console
    whole: bool
    of_features: bool
    crossed: str
    failed: dict[str, list[str]] = field(default_factory=dict)

    def run_all(self, chosen: Sequence[str]) -> None:
        """Runs what is not finished of the chosen cells, and writes the table between two runs.

        Raises UserError if the folder holds another sweep.
        """
        names = {"", *(called(name, next(iter(cell.values()))) for name, cell in self.runs.items())}
        processes.from_first(lambda: check_same(self.workdir, self.runs, names))
        ran = False
        for folder, config in (each for name in chosen for each in self.runs[name].items()):
            if not processes.from_first(partial(finished, folder, config, self.mode)):
                if ran:
                    self.collect()  # which stays if the next run is killed
                self.run(folder, config)
                ran = True
            elif jax.process_index() == 0 and not (folder / "report.html").exists():
                report.write(folder)  # the disk was full, say

    def run(self, folder: Path, config: ConfigDict) -> None:
        """Runs one cell with one seed; adds a UserError to `failed`."""
        where = str(folder.relative_to(self.workdir))
        self.console.rule(f"{self.title}: {where}")
        try:
            if jax.process_index() == 0 and self.mode == "train":
                borrow(folder, config, self.runs)
            multihost_utils.sync_global_devices(where)
            train_and_test(parse(config), folder, self.mode)
        except DiskError:
            raise  # the disk of the other cells, too
        except UserError as e:
            self.failed.setdefault(str(e), []).append(where)
            self.console.print(f"Failed: {e}")
            return
        if jax.process_index() == 0:
            report.write(folder)

    def collect(self) -> tuple[list[Row], list[str]]:
        """Returns the table of the finished runs and the lines below it, and writes both."""
        done = results_of(self.runs, self.mode)
        found = rows(self.runs, done, self.published, self.mode)
        lines = [*self.notes, *unfinished(self.runs, done)]
        lines += [f"Failed: {', '.join(runs)}. {text}" for text, runs in self.failed.items()]
        if jax.process_index() == 0 and self.of_features and self.mode == "train":
            lines += features_of(done, self.workdir)
        if jax.process_index() == 0 and self.whole:  # machines with a part each would write at once
            axis = varied({name: next(iter(cell.values())) for name, cell in self.runs.items()})
            table.write(self.workdir, self.title, found, lines, self.crossed, axis)
        return found, lines

    def show(self) -> list[Row]:
        """Prints and returns the table. Raises UserError if a run failed."""
        found, lines = self.collect()
        if not self.console.is_terminal:
            self.console.width = WIDTH
        if found:
            self.console.print(table.rich_table(self.title, found))
        for line in lines:
            self.console.print(line)
        if self.failed:
            count = sum(map(len, self.failed.values()))
            raise UserError(f"{count} runs failed, see above. The same command tries them again.")
        return found


# -- the cells


def take(names: Sequence[str], part: str) -> list[str]:
    """Returns the names that `part` "i/n" gives: every n-th from the i-th; all for "".

    Raises UserError for a text of another form, and unless 1 <= i <= n.
    """
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
    """Returns the configs of all cells. Raises UserError for one that is not valid."""
    settled = {}
    for name, changes in cells.items():
        settled[name] = deepcopy(config)
        try:
            settled[name].update_from_flattened_dict(dict(changes))
            check_names(parse(settled[name]))
        except (KeyError, AttributeError, TypeError, UserError) as e:
            raise UserError(f"The cell {name!r} of the sweep: {e}") from e
    return settled


def seeded(config: ConfigDict, seed: int) -> ConfigDict:
    """Returns a config with another seed."""
    changed = deepcopy(config)
    changed.seed = seed
    return changed


# -- the results


def varied(configs: Mapping[str, ConfigDict]) -> str:
    """Returns the setting in which the configs differ, "" if there are several, or none.

    Of several settings it is the one whose values are the names of the configs, if there is one.
    """
    values = [flatten(config.to_dict()) for config in configs.values()]
    keys = [key for key in values[0] if len({repr(each.get(key)) for each in values}) > 1]
    if len(keys) > 1:
        keys = [key for key in keys if [str(each.get(key)) for each in values] == list(configs)]
    return keys[0] if len(keys) == 1 else ""


def rows(runs: Runs, done: Results, published: Published, mode: str = "train") -> list[Row]:
    """Returns the table of all finished runs; a zero-shot result that all share stands once.

    `done` holds the results of the runs (`results_of`).
    """
    firsts = [next(iter(cell.values())) for cell in runs.values()]
    once = len({f"{c.data}{c.model}{c.head.prompt}{c.head.descriptors}" for c in firsts}) == 1
    once = once and mode == "train"
    found: list[Row] = []
    for name, first in zip(runs, firsts, strict=True):
        results = [each for each in done[name].values() if each]
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
                    published=published.get(name, {}).get(result, {}),
                )
            )
    return found


def features_of(done: Results, out: Path) -> list[str]:
    """Draws what the finished runs of the first seed did to the classes; returns lines about it."""
    firsts = {name: next(iter(cell.items())) for name, cell in done.items()}
    loaded = {name: load(folder) for name, (folder, found) in firsts.items() if found}
    part = consistency_comparison.part(loaded, out, "sweep")
    return part.sentences if part else []


def unfinished(runs: Runs, done: Results) -> list[str]:
    """Returns a note that names the cells whose runs are not all finished; [] if there are none."""
    names = []
    for name, cell in done.items():
        count = sum(each is not None for each in cell.values())
        if count < len(cell):
            some = f" ({count} of {len(cell)} seeds)" if count else ""
            names.append(called(name, next(iter(runs[name].values()))) + some)
    return [f"Not finished: {', '.join(names)}."] if names else []


def called(name: str, config: ConfigDict) -> str:
    """Returns a cell's name in the table; the only cell of a seed study has its method's name."""
    return name or words.method(to_dict(config))
