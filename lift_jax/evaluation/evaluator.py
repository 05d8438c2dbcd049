"""Evaluates classifiers on whole splits, once or through a test-time ensemble of crops."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Float
from rich.console import Console
from rich.progress import track

from lift_jax.data import loader
from lift_jax.data.images.views import TestTransform, View, ensemble
from lift_jax.data.types import Split
from lift_jax.evaluation.activations import Cache, Reading
from lift_jax.evaluation.evaluate import Counter, evaluate
from lift_jax.evaluation.forward import make_count
from lift_jax.evaluation.metrics import Counts
from lift_jax.models import tree
from lift_jax.models.backbone import Classifier, Vision
from lift_jax.models.tree import Tree
from lift_jax.settings.rules import DEFAULTS
from lift_jax.settings.schema import TestSettings

EXPAND_RESOLUTION = 224  # pixels that the default margin is meant for


def ensemble_view(test: TestSettings, resolution: int, min_area: float) -> View:
    """Returns the crops of test-time ensembling; `min_area` is that of random crops."""
    return ensemble(
        test.crops, resolution, test.interpolation, expand=margin(test.expand, resolution),
        views=test.views, min_area=min_area,
    )  # fmt: skip


def margin(expand: int, resolution: int) -> int:
    """Returns the pixels by which an image is larger than its crops.

    The default margin is scaled with resolutions below 224 pixels; any other is taken as it is.
    """
    if expand != DEFAULTS["test.expand"] or resolution >= EXPAND_RESOLUTION:
        return expand
    return max(1, round(expand * resolution / EXPAND_RESOLUTION))


class Candidate(NamedTuple):
    """A classifier to evaluate, as graph and leaves.

    `shifts` f32[t c] are subtracted from the logits, each for counts of its own.
    """

    graph: nnx.GraphDef[Classifier]
    leaves: Tree
    shifts: Float[np.ndarray, "t c"] | None = None


@dataclass(frozen=True)
class Evaluator:
    """Reads splits and counts what classifiers get right.

    Attributes:
        mesh: the devices.
        vision: sizes of the image tower.
        cache: of activations.
        test: batch size, interpolation and crops.
        seed: of random crops.
        min_area: share of the image that the smallest random crop covers.
        workers: processes that decode images.
        console: for progress bars.
    """

    mesh: Mesh
    vision: Vision
    cache: Cache
    test: TestSettings
    seed: int
    min_area: float
    workers: int
    console: Console

    def once(
        self,
        candidates: Mapping[str, Candidate],
        tuned: Iterable[str],
        split: Split,
        doing: str,
    ) -> dict[str, Counts]:
        """Returns the counts of each candidate, which sees each image once.

        Images enter above the blocks that all candidates share. `tuned` are the paths of tuned
        leaves of the last candidate; the others differ from it in nothing below these.
        """
        graph, leaves, _ = list(candidates.values())[-1]
        view = TestTransform(self.vision.resolution, self.test.interpolation)
        reading = self.cache.read(tree.merge(graph, leaves).visual, tuned, split, view)
        return self._count(candidates, reading, doing)

    def crops(
        self, candidates: Mapping[str, Candidate], split: Split, doing: str
    ) -> dict[str, Counts]:
        """Returns the counts of each candidate by the mean logits over the crops of an image."""
        view = ensemble_view(self.test, self.vision.resolution, self.min_area)
        return self._count(candidates, Reading(split, view, 0, self.workers), doing)

    def _count(
        self, candidates: Mapping[str, Candidate], reading: Reading, doing: str
    ) -> dict[str, Counts]:
        counters = {name: self._counter(c, reading.start) for name, c in candidates.items()}
        return evaluate(self._batches(reading, doing), counters, self.mesh)

    def _counter(self, candidate: Candidate, start: int) -> Counter:
        graph, leaves, shifts = candidate
        return partial(make_count(graph, self.vision, self.mesh, shifts, start), leaves)

    def _batches(self, reading: Reading, doing: str) -> Iterable[Mapping[str, np.ndarray]]:
        """Returns this process's batches of a split, behind a progress bar."""
        batches = loader.eval_batches(
            reading.split, reading.view, seed=self.seed, batch=self.test.batch,
            process=jax.process_index(), processes=jax.process_count(), workers=reading.workers,
        )  # fmt: skip
        return track(
            batches, doing, total=loader.steps_per_epoch(len(reading.split), self.test.batch),
            console=self.console, transient=True, disable=not self.console.is_terminal,
        )  # fmt: skip
