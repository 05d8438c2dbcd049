"""The rarity of each class in training: its number of images, and its group."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lift_jax.errors import UserError
from lift_jax.evaluation import metrics
from lift_jax.runs import finished_run
from lift_jax.runs.kept import result_files
from lift_jax.storage.reading import RUN_BYTES, read_json


@dataclass(frozen=True)
class Rarity:
    """Training images of each class, and its group: many, medium or few."""

    counts: list[int]
    groups: list[str]


def read(workdir: Path, classes: int) -> Rarity | None:
    """Returns the rarity of a run's classes, None if its folder does not say it."""
    try:
        run = finished_run.load(workdir)
        found = Rarity(run.train_counts.tolist(), run.groups)
    except UserError:  # it has no results yet
        found = _of_config(workdir)
    return found if found and len(found.counts) == classes else None


def _of_config(workdir: Path) -> Rarity | None:
    try:
        summary = read_json(workdir / result_files.CONFIG, most_bytes=RUN_BYTES).get("data_summary")
    except UserError:
        return None
    counts = summary.get("counts") if isinstance(summary, dict) else None
    if not isinstance(counts, list) or not all(type(count) is int for count in counts):
        return None
    return Rarity(counts, metrics.group_of_each(np.asarray(counts)))
