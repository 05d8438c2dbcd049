"""The evaluator of classifiers on whole splits, with one crop or a test-time ensemble of crops."""

import functools
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float16, Int
from rich.console import Console

from lift_jax.data import loader
from lift_jax.data.batches.order import steps_per_epoch
from lift_jax.data.images.views import TestTransform, View, ensemble
from lift_jax.data.types import Split
from lift_jax.evaluation.activations.cache import Cache
from lift_jax.evaluation.activations.reading import Reading
from lift_jax.evaluation.evaluate import Counter, evaluate
from lift_jax.evaluation.forward import Batch, make_count, make_embed, make_outputs
from lift_jax.evaluation.metrics import Counts
from lift_jax.evaluation.programs import Job, Program, Programs
from lift_jax.evaluation.stream import Placed, in_order, placed
from lift_jax.models import tree
from lift_jax.models.backbone import Classifier, Vision
from lift_jax.models.heads import l2_normalise
from lift_jax.models.tree import Tree
from lift_jax.output.terminal import track
from lift_jax.parallel.mesh import batch_sharding, gather
from lift_jax.settings.groups.test import TestSettings
from lift_jax.settings.rules import DEFAULTS

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


def shapes(leaves: Tree) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of leaves with their types and places, without holding them."""
    return {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
        for path, leaf in leaves.items()
    }


class Outputs(NamedTuple):
    """What a classifier gives for the images of a split that can be read, in their order."""

    logits: Float[np.ndarray, "n c"]
    embedded: Float[np.ndarray, "n e"]
    labels: Int[np.ndarray, " n"]


class Embeddings(NamedTuple):
    """The embeddings of the images of a split that can be read, in their order.

    `rows` are their indices in the split, and `found` holds the embeddings by classifier.
    """

    rows: Int[np.ndarray, " n"]
    labels: Int[np.ndarray, " n"]
    found: dict[str, Float16[np.ndarray, "n e"]]


@dataclass(frozen=True)
class Evaluator:
    """An evaluator that reads splits and counts the correct predictions of classifiers.

    Attributes:
        mesh: the devices.
        vision: sizes of the image tower.
        cache: cache of activations.
        programs: programs of the run, which its evaluators share.
        test: batch size, interpolation and crops.
        seed: seed of random crops.
        min_area: share of the image that the smallest random crop covers.
        workers: number of processes that decode images (see data.workers).
        console: for progress bars.
    """

    mesh: Mesh
    vision: Vision
    cache: Cache
    programs: Programs
    test: TestSettings
    seed: int
    min_area: float
    workers: int
    console: Console

    def one_crop(
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
            top: number of most likely classes that the counts hold for each image
                (`forward.answers`), 0 for none.
        """
        graph, leaves, _ = list(candidates.values())[-1]
        reading = self._one_crop_reading(graph, leaves, tuned, split)
        return self._count(candidates, reading, description, top)

    def crops(
        self, candidates: Mapping[str, Candidate], split: Split, description: str, top: int = 0
    ) -> dict[str, Counts]:
        """Returns the counts of each candidate by name, with mean logits over an image's crops."""
        return self._count(candidates, self._crops_reading(split), description, top)

    def count_ahead(
        self, candidates: Mapping[str, Candidate], tuned: Iterable[str], split: Split,
        top: int = 0, crops: bool = False,
    ) -> Iterator[Job]:  # fmt: skip
        """Yields the jobs that compile what `one_crop`, or `crops`, will use."""
        graph, leaves, _ = list(candidates.values())[-1]
        if crops or not self._from_cache(graph, leaves, tuned):
            batch = self._batch_shapes(
                split, self._crops_reading(split).view if crops else self._view
            )
            for candidate in candidates.values():
                program = self._program(candidate, 0, top)
                yield functools.partial(program.compile, shapes(candidate.leaves), batch)

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
        reading = (
            self._crops_reading(split)
            if crops
            else self._one_crop_reading(graph, leaves, tuned, split)
        )
        forward = make_outputs(graph, self.vision, reading.start)

        def work(leaves: Tree, batch: Batch) -> tuple[Array, ...]:
            return forward(gather(self.mesh, leaves), batch)

        batches = self._batches(reading, "Calibrating")
        stream = in_order(placed(work, self.mesh), self.mesh)
        parts = [part[1:] for part in stream(leaves, batches)]
        labels, logits, embedded = (np.concatenate(each) for each in zip(*parts, strict=True))
        return Outputs(logits, embedded, labels)

    def embeddings(
        self,
        candidates: Mapping[str, Candidate],
        tuned: Iterable[str],
        splits: Mapping[str, Split],
        cached: Collection[str],
    ) -> dict[str, Embeddings]:
        """Returns the embeddings of splits with one crop by each candidate, by names of both.

        They are of unit length, in float16, and the same in all processes. Images are read once for
        all candidates.

        Args:
            candidates: classifiers with the same untuned blocks.
            tuned: paths of the tuned leaves of the first candidate. Below them, the others are
                equal to it.
            splits: images and labels.
            cached: names of the splits that start from cached activations, where the cache is on.
        """
        leaves = {name: candidate.leaves for name, candidate in candidates.items()}
        graph, its_leaves, _ = next(iter(candidates.values()))
        results = {}
        for name, split in splits.items():
            reading = self._one_crop_reading(graph, its_leaves, tuned, split, name in cached)
            stream = in_order(self._embedding(candidates, reading.start), self.mesh)
            parts = list(stream(leaves, self._batches(reading, "Features")))
            rows, labels, *found = (np.concatenate(each) for each in zip(*parts, strict=True))
            results[name] = Embeddings(rows, labels, dict(zip(candidates, found, strict=True)))
        return results

    def embeddings_ahead(
        self, candidates: Mapping[str, Candidate], tuned: Iterable[str],
        splits: Mapping[str, Split], cached: Collection[str],
    ) -> Iterator[Job]:  # fmt: skip
        """Yields the jobs that compile what `embeddings` will use."""
        leaves = {name: shapes(candidate.leaves) for name, candidate in candidates.items()}
        graph, its_leaves, _ = next(iter(candidates.values()))
        for name, split in splits.items():
            if name in cached and self._from_cache(graph, its_leaves, tuned):
                continue
            batch = self._batch_shapes(split, self._view)
            batch["position"] = batch["row"]
            program = self._embedding(candidates, 0)
            yield functools.partial(program.compile, leaves, batch)

    def _embedding(self, candidates: Mapping[str, Candidate], start: int) -> Program:
        """Returns the program of `embeddings` for batches that enter block `start`."""

        def make() -> Placed:
            forwards = [(n, make_embed(c.graph, self.vision, start)) for n, c in candidates.items()]

            def work(leaves: Mapping[str, Tree], batch: Batch) -> tuple[Array, ...]:
                found = (embed(gather(self.mesh, leaves[n]), batch) for n, embed in forwards)
                return tuple(l2_normalise(each).astype(jnp.float16) for each in found)

            return placed(work, self.mesh)

        graphs = tuple(candidate.graph for candidate in candidates.values())
        return self.programs.get(make, graphs, "embeddings", start)

    def _one_crop_reading(
        self, graph: nnx.GraphDef[Classifier], leaves: Tree, tuned: Iterable[str], split: Split,
        cached: bool = True,
    ) -> Reading:  # fmt: skip
        if not cached:
            return Reading(split, self._view, 0, self.workers)
        return self.cache.read(tree.merge(graph, leaves).visual, tuned, split, self._view)

    @property
    def _view(self) -> TestTransform:
        return TestTransform(self.vision.resolution, self.test.interpolation)

    def _from_cache(
        self, graph: nnx.GraphDef[Classifier], leaves: Tree, tuned: Iterable[str]
    ) -> bool:
        """Returns True if a classifier may start from cached activations, whose block and shape are
        known when they are read."""
        return self.cache.may_serve(tree.merge(graph, leaves).visual, tuned)

    def _crops_reading(self, split: Split) -> Reading:
        view = ensemble_view(self.test, self.vision.resolution, self.min_area)
        return Reading(split, view, 0, self.workers)

    def _count(
        self, candidates: Mapping[str, Candidate], reading: Reading, description: str, top: int
    ) -> dict[str, Counts]:
        counters = {name: self._counter(c, reading.start, top) for name, c in candidates.items()}
        return evaluate(self._batches(reading, description), counters, self.mesh)

    def _counter(self, candidate: Candidate, start: int, top: int) -> Counter:
        return functools.partial(self._program(candidate, start, top), candidate.leaves)

    def _program(self, candidate: Candidate, start: int, top: int) -> Program:
        graph, _, shifts = candidate
        return self.programs.get(
            lambda: make_count(graph, self.vision, self.mesh, shifts, start, top),
            (graph,), "count", None if shifts is None else shifts.tobytes(), start, top,
        )  # fmt: skip

    def _batch_shapes(self, split: Split, view: View) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns the shapes of a batch of images on all devices."""
        sharding = batch_sharding(self.mesh)
        return {
            key: jax.ShapeDtypeStruct((self.test.batch, *row.shape), row.dtype, sharding=sharding)
            for key, row in loader.eval_padding(split, view).items()
        }

    def _batches(self, reading: Reading, description: str) -> Iterable[Mapping[str, np.ndarray]]:
        """Returns the batches of this process, with a progress bar."""
        batches = loader.eval_batches(
            reading.split, reading.view, seed=self.seed, batch=self.test.batch,
            process=jax.process_index(), processes=jax.process_count(), workers=reading.workers,
        )  # fmt: skip
        return track(
            batches, description, total=steps_per_epoch(len(reading.split), self.test.batch),
            console=self.console, disable=not self.console.is_terminal,
        )  # fmt: skip
