"""The scores of checkpoints: the validation accuracy of each state, and the order by it."""

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from lift_jax.errors import UserError, shown
from lift_jax.storage import atomic
from lift_jax.storage.reading import read_json
from lift_jax.training.checkpoint.contents import FOLDER, first_line

METRICS = "metrics"  # folder in a checkpoint, and file in that folder, of its score
SCORE = "score"  # key of the validation accuracy in a checkpoint's metrics
Warn = Callable[[str], None]  # shows a line


def best_first(workdir: Path) -> list[int]:
    """Returns the steps of a run's checkpoints: the best score first; without scores the newest.

    Changes nothing, so the run may be in progress.
    """
    folder = workdir / FOLDER
    if not folder.is_dir():
        return []
    steps = [int(path.name) for path in folder.iterdir() if path.name.isdigit()]
    return by_score(steps, scores_of(folder, steps))


def by_score(steps: Iterable[int], scores: Mapping[int, float]) -> list[int]:
    """Returns steps, the best score first. Equal scores: the later first. No score: last."""
    return sorted(steps, key=lambda step: (scores.get(step, -math.inf), step), reverse=True)


def scores_of(folder: Path, steps: Iterable[int]) -> dict[int, float]:
    """Returns the scores of the checkpoints that have one and whose score can be read."""
    scores = {}
    for step in steps:
        try:
            scores[step] = score_of(folder / str(step))
        except UserError:
            continue
    return scores


def score_of(checkpoint: Path) -> float:
    """Returns the score of one checkpoint. Raises UserError if there is none or it is broken."""
    path = checkpoint / METRICS / METRICS
    score = read_json(path).get(SCORE)
    if not isinstance(score, int | float):
        raise UserError(f"{path}: {SCORE} is {shown(score)}; expected a number.")
    return float(score)


def move_broken_away(folder: Path, warn: Warn) -> None:
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
                score_of(path)
            except UserError as e:
                name = f"damaged_checkpoint_{path.name}_{METRICS}"
                aside = atomic.move_aside(path / METRICS, folder.parent / name)
                warn(
                    f"the validation accuracy of the checkpoint of step {path.name} is damaged "
                    f"({first_line(e)}). It was moved to {aside}, and that checkpoint counts as "
                    "not validated."
                )
