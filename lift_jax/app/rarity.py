"""The rarity of each class in training: its number of images, and its group."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lift_jax.errors import UserError
from lift_jax.evaluation import metrics
from lift_jax.runs import folder
from lift_jax.storage.reading import RUN_BYTES, read_json


@dataclass(frozen=True)
class Rarity:
    """Training images of each class, and its group: many, medium or few."""

    counts: list[int]
    groups: list[str]


def read(workdir: Path, classes: int) -> Rarity | None:
    """Returns the rarity of a run's classes, None if its folder does not say it."""
    try:
        run = folder.load(workdir)
        found = Rarity(run.train_counts.tolist(), run.groups)
    except UserError:  # it has no results yet
        found = _of_config(workdir)
    return found if found and len(found.counts) == classes else None


def _of_config(workdir: Path) -> Rarity | None:
    try:
        summary = read_json(workdir / folder.CONFIG, most_bytes=RUN_BYTES).get("data_summary")
    except UserError:
        return None
    counts = summary.get("counts") if isinstance(summary, dict) else None
    if not isinstance(counts, list) or not all(type(count) is int for count in counts):
        return None
    members = metrics.groups(np.asarray(counts)).items()
    groups = [next(name for name, inside in members if inside[c]) for c in range(len(counts))]
    return Rarity(counts, groups)
