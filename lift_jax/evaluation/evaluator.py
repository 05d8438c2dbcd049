"""The evaluator of classifiers on whole splits, with one crop or a test-time ensemble of crops."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int
from rich.console import Console

from lift_jax.data import loader
from lift_jax.data.images.views import TestTransform, View, ensemble
from lift_jax.data.types import Split
from lift_jax.evaluation.activations import Cache, Reading
from lift_jax.evaluation.evaluate import Counter, evaluate
from lift_jax.evaluation.forward import Batch, make_count, make_outputs
from lift_jax.evaluation.metrics import Counts
from lift_jax.models import tree
from lift_jax.models.backbone import Classifier, Vision
from lift_jax.models.tree import Tree
from lift_jax.output.terminal import track
from lift_jax.parallel.mesh import gather, put_batch, replicated
from lift_jax.settings.rules import DEFAULTS
from lift_jax.settings.schema import TestSettings

EXPAND_RESOLUTION = 224  # resolution in pixels for which the default margin is meant


def ensemble_view(test: TestSettings, resolution: int, min_area: float) -> View:
    """Returns the view that cuts the crops of test-time ensembling.

    `min_area` is the share of the image that the smallest random crop covers.
    """
    return ensemble(
        test.crops, resolution, test.interpolation, expand=margin(test.expand, resolution),
        views=test.views, min_area=min_area,
    )  # fmt: skip


def margin(expand: int, resolution: int) -> int:
    """Returns the margin in pixels by which an image is larger than its crops.

    `expand` is test.expand. Its default is scaled with the resolution below 224 pixels; any other
    value is used unchanged.
    """
    if expand != DEFAULTS["test.expand"] or resolution >= EXPAND_RESOLUTION:
        return expand
    return max(1, round(expand * resolution / EXPAND_RESOLUTION))


class Candidate(NamedTuple):
    """A classifier to evaluate, as graph and leaves.

    If `shifts` f32[t c] are given, each of them is subtracted from the logits and gets its own
    counts, along a first axis [t].
    """

    graph: nnx.GraphDef[Classifier]
    leaves: Tree
    shifts: Float[np.ndarray, "t c"] | None = None


class Outputs(NamedTuple):
    """What a classifier gives for the images of a split that can be read, in their order."""

    logits: Float[np.ndarray, "n c"]
    embedded: Float[np.ndarray, "n e"]
    labels: Int[np.ndarray, " n"]


@dataclass(frozen=True)
class Evaluator:
    """An evaluator that reads splits and counts the correct predictions of classifiers.

    Attributes:
        mesh: the devices.
        vision: sizes of the image tower.
        cache: cache of activations.
        test: batch size, interpolation and crops.
        seed: seed of random crops.
        min_area: share of the image that the smallest random crop covers.
        workers: number of processes that decode images (see data.workers).
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
        description: str,
        top: int = 0,
    ) -> dict[str, Counts]:
        """Returns the counts of each candidate by name, with one crop of each image.

        Candidates start from cached activations, if the blocks below are the same in all of them.

        Args:
            candidates: classifiers with the same untuned blocks.
            tuned: paths of the tuned leaves of the last candidate. Below them, the others are equal
                to it.
            split: images and labels.
            description: of the progress bar.
            top: number of likeliest classes that the counts hold of each image
                (`forward.answers`), 0 for none.
        """
        graph, leaves, _ = list(candidates.values())[-1]
        reading = self._one_crop(graph, leaves, tuned, split)
        return self._count(candidates, reading, description, top)

    def crops(
        self, candidates: Mapping[str, Candidate], split: Split, description: str, top: int = 0
    ) -> dict[str, Counts]:
        """Returns the counts of each candidate by name, with mean logits over an image's crops."""
        return self._count(candidates, self._crops(split), description, top)

    def outputs(
        self, candidate: Candidate, tuned: Iterable[str], split: Split, crops: bool = False
    ) -> Outputs:
        """Returns logits and embeddings of a split, the same in all processes.

        Args:
            candidate: the classifier.
            tuned: paths of its tuned leaves.
            split: images and labels.
            crops: True for the means over several crops of each image.
        """
        graph, leaves, _ = candidate
        reading = self._crops(split) if crops else self._one_crop(graph, leaves, tuned, split)
        forward = make_outputs(graph, self.vision, reading.start)

        def work(leaves: Tree, batch: Batch) -> tuple[Array, ...]:
            return *forward(gather(self.mesh, leaves), batch), batch["label"], batch["mask"]

        jitted, parts = jax.jit(work, out_shardings=replicated(self.mesh)), []
        for rows in self._batches(reading, "Calibrating"):
            *found, mask = map(np.asarray, jitted(leaves, put_batch(self.mesh, rows)))
            parts.append([each[mask] for each in found])
        return Outputs(*(np.concatenate(each) for each in zip(*parts, strict=True)))

    def _one_crop(
        self, graph: nnx.GraphDef[Classifier], leaves: Tree, tuned: Iterable[str], split: Split
    ) -> Reading:
        view = TestTransform(self.vision.resolution, self.test.interpolation)
        return self.cache.read(tree.merge(graph, leaves).visual, tuned, split, view)

    def _crops(self, split: Split) -> Reading:
        view = ensemble_view(self.test, self.vision.resolution, self.min_area)
        return Reading(split, view, 0, self.workers)

    def _count(
        self, candidates: Mapping[str, Candidate], reading: Reading, description: str, top: int
    ) -> dict[str, Counts]:
        counters = {name: self._counter(c, reading.start, top) for name, c in candidates.items()}
        return evaluate(self._batches(reading, description), counters, self.mesh)

    def _counter(self, candidate: Candidate, start: int, top: int) -> Counter:
        graph, leaves, shifts = candidate
        return partial(make_count(graph, self.vision, self.mesh, shifts, start, top), leaves)

    def _batches(self, reading: Reading, description: str) -> Iterable[Mapping[str, np.ndarray]]:
        """Returns the batches of this process, with a progress bar."""
        batches = loader.eval_batches(
            reading.split, reading.view, seed=self.seed, batch=self.test.batch,
            process=jax.process_index(), processes=jax.process_count(), workers=reading.workers,
        )  # fmt: skip
        return track(
            batches, description, total=loader.steps_per_epoch(len(reading.split), self.test.batch),
            console=self.console, disable=not self.console.is_terminal,
        )  # fmt: skip
