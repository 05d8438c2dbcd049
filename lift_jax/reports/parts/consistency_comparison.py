"""The comparison of runs by consistency: which of them hurt the rare classes."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lift_jax.errors import UserError
from lift_jax.evaluation.insight.consistency import Consistency
from lift_jax.evaluation.metrics import GROUPS
from lift_jax.reports import page
from lift_jax.reports.parts import consistency_part
from lift_jax.reports.parts.consistency_part import NOTE, WORDS, Measured, Part, decimals, known
from lift_jax.runs.finished_run import Run

MOST = 6  # runs that are drawn


def part(runs: Mapping[str, Run], out: Path, prefix: str = "report_compare") -> Part | None:
    """Returns the part of several runs, by name, None if none of them kept features.

    Its sentences are on the rarest classes. Writes the figures into `out` (`PREFIX_NAME.png`) if
    all are runs of the same classes, and at most `MOST`. A run without features has no row.
    """
    found = measure(runs)
    if not found:
        return None
    said = []
    for name, each in found.items():
        if groups := [group for group in WORDS if known(each.numbers, group)]:
            said.append(f"{name}: {consistency_part.sentence(each, groups[-1])}")
    images = []
    if len(found) <= MOST and _of_the_same_classes([runs[name] for name in found]):
        run = runs[next(iter(found))]
        images = list(consistency_part.draw(_states(found), run, out, prefix).values())
    return Part(NOTE, said, images, _table(found), "Gap between training and test images by run")


def measure(runs: Mapping[str, Run]) -> dict[str, Measured]:
    """Returns the consistency of each run that has features which are not damaged."""
    found: dict[str, Measured] = {}
    for name, run in runs.items():
        try:
            if measured := consistency_part.measure(run):
                found[name] = measured
        except UserError:
            continue  # the run's own report says so
    return found


def _of_the_same_classes(runs: list[Run]) -> bool:
    first = runs[0]
    return all(
        run.names == first.names and np.array_equal(run.train_counts, first.train_counts)
        for run in runs
    )


def _states(found: Mapping[str, Measured]) -> dict[str, Consistency]:
    """Returns what is drawn: the runs, and before them the backbone, if all have tuned the same."""
    states = {name: each.after for name, each in found.items()}
    first, *others = found.values()
    shared = all(np.array_equal(each.before.means, first.before.means) for each in others)
    if shared and all(each.tuned for each in found.values()):
        return {"before tuning": first.before} | states
    return states


def _table(found: Mapping[str, Measured]) -> page.Table:
    """Returns the gaps of the groups; the smallest of each after tuning is marked."""
    groups = (*GROUPS, "all")

    def gap(name: str, group: str, state: str) -> float:
        return found[name].numbers[group][state]["gap"]

    least = {}
    for group in groups:
        sizes = [abs(gap(name, group, "after")) for name in found]
        least[group] = min(filter(np.isfinite, sizes), default=None)
    rows = []
    for name, each in found.items():
        for state in ("before", "after") if each.tuned else ("after",):
            gaps = {group: gap(name, group, state) for group in groups}
            cells = [
                (decimals(value), state == "after" and abs(value) == least[group])
                for group, value in gaps.items()
            ]
            rows.append((f"{name}, {state} tuning" if each.tuned else name, cells))
    return page.Table(["gap", *groups], rows)
