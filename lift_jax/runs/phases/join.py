"""The joining rule of LT-Soups: the mean of a stage's models, and the stages in their order."""

from collections.abc import Mapping, Sequence

import numpy as np

Leaves = Mapping[str, np.ndarray]  # tuned leaves by path, float32


def join(before: Leaves, start: Leaves, models: Sequence[Leaves], share: float) -> Leaves:
    """Returns (1 - share) * before + share * stage, where stage = start + mean(models - start).

    Computed in float64, leaf by leaf, and rounded once.

    Args:
        before: the stages before, joined; `start` before the first.
        start: where all models started.
        models: the models of the stage.
        share: the weight of the stage (soups.join).
    """

    def joined(path: str) -> np.ndarray:
        first = start[path].astype(np.float64)
        stage = first + np.mean([model[path] - first for model in models], axis=0)
        mixed = (1 - share) * before[path].astype(np.float64) + share * stage
        return np.asarray(mixed, np.float32)  # also of a single number

    return {path: joined(path) for path in before}
