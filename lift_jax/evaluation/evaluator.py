"""The evaluator of classifiers on whole splits, with one crop or a test-time ensemble of crops."""

import functools
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Float16, Int
from rich.console import Console

from lift_jax.data import loader
from lift_jax.data.batches.order import steps_per_epoch
from lift_jax.data.images.views import TestTransform, View, ensemble
from lift_jax.data.types import Split
from lift_jax.evaluation.activations.cache import Cache
from lift_jax.evaluation.activations.reading import Reading
from lift_jax.evaluation.candidate import Candidate, Chain
from lift_jax.evaluation.metrics import Counts
from lift_jax.evaluation.programs import Job, Program, Programs
from lift_jax.evaluation.stream import evaluate, in_order
from lift_jax.models import tree
from lift_jax.models.backbone import Vision
from lift_jax.output.terminal import track
from lift_jax.parallel.mesh import batch_sharding
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
        last = list(candidates.values())[-1]
        reading = self._one_crop_reading(last, tuned, split)
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
        last = list(candidates.values())[-1]
        if crops or not self._from_cache(last, tuned):
            view = self._crops_reading(split).view if crops else self._view
            batch = self._batch_shapes(split, view)
            for candidate in candidates.values():
                yield functools.partial(
                    self._chain().counts, batch, candidate.shapes(), top, use=Program.compile
                )

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
        reading = (
            self._crops_reading(split) if crops else self._one_crop_reading(candidate, tuned, split)
        )
        work = functools.partial(self._chain(reading.start).outputs, candidate=candidate)
        stream = in_order(work, self._batches(reading, "Calibrating"), self.mesh)
        parts = [part[1:] for part in stream]
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
        one, several = next(iter(candidates.values())), list(candidates.values())
        results = {}
        for name, split in splits.items():
            reading = self._one_crop_reading(one, tuned, split, name in cached)
            work = functools.partial(self._chain(reading.start).units, candidates=several)
            parts = list(in_order(work, self._batches(reading, "Features"), self.mesh))
            rows, labels, *found = (np.concatenate(each) for each in zip(*parts, strict=True))
            results[name] = Embeddings(rows, labels, dict(zip(candidates, found, strict=True)))
        return results

    def embeddings_ahead(
        self, candidates: Mapping[str, Candidate], tuned: Iterable[str],
        splits: Mapping[str, Split], cached: Collection[str],
    ) -> Iterator[Job]:  # fmt: skip
        """Yields the jobs that compile what `embeddings` will use."""
        one = next(iter(candidates.values()))
        several = [candidate.shapes() for candidate in candidates.values()]
        for name, split in splits.items():
            if name not in cached or not self._from_cache(one, tuned):
                batch = self._batch_shapes(split, self._view)
                batch["position"] = batch["row"]
                yield functools.partial(self._chain().units, batch, several, use=Program.compile)

    def _chain(self, start: int = 0) -> Chain:
        return Chain(self.mesh, self.vision, self.programs, start)

    def _one_crop_reading(
        self, candidate: Candidate, tuned: Iterable[str], split: Split, cached: bool = True
    ) -> Reading:
        if not cached:
            return Reading(split, self._view, 0, self.workers)
        return self.cache.read(tree.merge(*candidate.tower), tuned, split, self._view)

    @property
    def _view(self) -> TestTransform:
        return TestTransform(self.vision.resolution, self.test.interpolation)

    def _from_cache(self, candidate: Candidate, tuned: Iterable[str]) -> bool:
        """Returns True if a classifier may start from cached activations, whose block and shape are
        known when they are read."""
        return self.cache.may_serve(tree.merge(*candidate.tower), tuned)

    def _crops_reading(self, split: Split) -> Reading:
        view = ensemble_view(self.test, self.vision.resolution, self.min_area)
        return Reading(split, view, 0, self.workers)

    def _count(
        self, candidates: Mapping[str, Candidate], reading: Reading, description: str, top: int
    ) -> dict[str, Counts]:
        counts = self._chain(reading.start).counts
        counters = {
            name: functools.partial(counts, candidate=candidate, top=top)
            for name, candidate in candidates.items()
        }
        return evaluate(self._batches(reading, description), counters, self.mesh)

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
