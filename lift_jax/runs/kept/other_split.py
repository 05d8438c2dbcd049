"""The accuracies of a run on its training or validation split (test.split), a file for each."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lift_jax.errors import UserError
from lift_jax.evaluation import metrics
from lift_jax.storage import atomic
from lift_jax.storage.reading import RUN_BYTES, read_json


def name(split: str) -> str:
    """Returns the name of the file of a split, as metrics_train.json."""
    return f"metrics_{split}.json"


def write(workdir: Path, split: str, found: Mapping[str, Any]) -> None:
    """Writes the summaries `zero_shot` and `test` (or None) of a split, with what made them."""
    atomic.write_json(workdir / name(split), found)


def read(workdir: Path, split: str, steps: int, interpolation: str) -> dict[str, Any] | None:
    """Returns what is kept of a split after this many steps and with this interpolation.

    Returns None if there is no such result, and, after a warning, if its file is damaged.
    """
    path = workdir / name(split)
    if not os.path.lexists(path):
        return None
    found = _whole(path)
    if found is None:
        atomic.warn(
            f"{path} is damaged or of another version of lift_jax, so its results are left out. "
            f"The run's command with --mode=evaluate --config.test.split={split} makes it anew."
        )
        return None
    return found if (found["steps"], found["interpolation"]) == (steps, interpolation) else None


def _whole(path: Path) -> dict[str, Any] | None:
    """Returns the content of a file, None if it is not what `write` writes."""
    try:
        found = read_json(path, most_bytes=RUN_BYTES)
    except UserError:
        return None
    if not {"steps", "interpolation", "zero_shot", "test"} <= found.keys():
        return None
    summaries = (found["zero_shot"], found["test"])
    return found if all(each is None or _is_summary(each) for each in summaries) else None


def _is_summary(value: Any) -> bool:
    if not isinstance(value, dict) or set(value) != set(metrics.NAMES):
        return False
    return all(each is None or type(each) in (int, float) for each in value.values())
