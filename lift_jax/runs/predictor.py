"""Predictions for new images by the classifier of a run.

lift_jax.Predictor("runs/photos").predict(["a.jpg", "b.jpg"], top_k=5)
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float

from lift_jax.data import loader
from lift_jax.data.batches.rows import Batch as HostBatch
from lift_jax.data.images import decode, views
from lift_jax.data.types import Split
from lift_jax.errors import UserError
from lift_jax.evaluation.evaluator import ensemble_view
from lift_jax.evaluation.forward import Batch, make_outputs
from lift_jax.evaluation.trust import conformal
from lift_jax.models import tree
from lift_jax.models.tree import Tree
from lift_jax.output.terminal import Terminal, track
from lift_jax.parallel.mesh import make_mesh, put_batch, replicated
from lift_jax.runs import pushed, restored
from lift_jax.runs.answers import calibration_file
from lift_jax.runs.answers.answering import (
    Answering,
    Asked,
    Outputs,
    Prediction,
    asked_share,
    outputs_of,
)
from lift_jax.runs.answers.calibration_file import view_of
from lift_jax.runs.answers.given import Given, GivenImages, expanded, files
from lift_jax.storage import atomic
from lift_jax.storage.names import expand_user
from lift_jax.tuners import prompt_learning

Sent = tuple[jax.Array, ...]  # `Outputs` that the device is at
READ_AHEAD = 16  # batches of images that are taken at a time


class Predictor:
    """The classifier of a run folder, for images of any size.

    Args:
        workdir: the folder of a run that has a checkpoint; the run may still be training. Or
            owner/name of a run on the Hugging Face hub (`pushed.folder_of`).
        tte: True for test-time ensembling with the crops of the run's config, at several times the
            work; None for the run's own setting (test.tte).
        batch: batch size.

    Attributes:
        class_names: in the order of the logits.
        settings: of the run.
        weights: the checksum of what the run tuned (`checkpoint.weights_checksum`).
        calibration: the run's calibration of these answers; None without one.

    Raises UserError as `pushed.folder_of` and `restored.load` do, and for a damaged
    calibration.json. One of another checkpoint is not used, and a warning says so.
    """

    def __init__(self, workdir: str | Path, *, tte: bool | None = None, batch: int = 64):
        if batch < 1:
            raise UserError(f"batch is {batch}; it must be at least 1.")
        workdir = expand_user(pushed.folder_of(workdir))
        found = restored.load(workdir)
        s, vision = found.settings, found.backbone.config.vision
        self.class_names, self.settings, self.weights = found.class_names, s, found.weights
        crops = s.test.tte if tte is None else tte
        self._view: views.View = views.TestTransform(vision.resolution, s.test.interpolation)
        if crops:
            self._view = ensemble_view(s.test, vision.resolution, s.train.min_area)
        self._how = decode.Decoding(s.data.decode == "fast", s.data.exif)
        self._mesh = make_mesh()
        self._batch = batch
        self._workdir = workdir
        self.calibration = view_of(workdir, found.weights, len(self.class_names), crops)
        everywhere = replicated(self._mesh)
        graph, leaves = tree.flatten(found.classifier)
        placed = {path: jax.device_put(leaf[...], everywhere) for path, leaf in leaves.items()}
        graph, self._leaves = prompt_learning.encode_texts_once(graph, placed, everywhere)
        outputs = make_outputs(graph, vision)

        def work(leaves: Tree, batch: Batch, asked: Asked) -> Sent:
            return outputs_of(*outputs(leaves, batch), asked)

        self._outputs = jax.jit(work, static_argnames="asked", out_shardings=everywhere)

    def predict(
        self,
        images: Iterable[Given] | Given,
        top_k: int = 5,
        *,
        skip: bool = False,
        unknown: bool | float | None = None,
        sets: bool | float | None = None,
        all_probabilities: bool = False,
    ) -> list[Prediction]:
        """Returns the `top_k` likeliest classes of each image, in the order of the images.

        Images are paths (a folder stands for all images below it), bytes of image files, Pillow
        images, or arrays u8[h w 3]. Where the run has a calibration.json, the logits are divided
        by its temperature before the softmax; the classes are the same.

        Args:
            images: one or several.
            top_k: number of classes.
            skip: True gives an image that cannot be read a Prediction with its `error`.
            unknown: True, or the share of right answers to keep, says of each image whether it is
                of none of the classes.
            sets: True, or the share of sets that hold the true class, gives each image such a set.
            all_probabilities: True gives the probabilities of all classes as well.

        Raises UserError for an image that cannot be read without `skip`, for a folder without
        images, for a `top_k` below 1, and for `unknown` and `sets` without calibration.json.
        """
        answering = self._answering(top_k, unknown, sets, all_probabilities)
        given, console = files(images), Terminal(stderr=True)
        hidden = not console.is_terminal or len(given) <= self._batch
        answers = self._answers(iter(given), skip, answering)
        return list(track(answers, "Classifying", len(given), console=console, disable=hidden))

    def stream(
        self,
        images: Iterable[Given],
        top_k: int = 5,
        *,
        skip: bool = False,
        unknown: bool | float | None = None,
        sets: bool | float | None = None,
        all_probabilities: bool = False,
    ) -> Iterator[Prediction]:
        """Returns an iterator over the answers of `predict`, which takes images as it goes.

        It holds a few batches at a time, so that there may be any number of images. The device
        works on a batch while the answers of the one before are made. With `skip`, a path that does
        not exist is an image that cannot be read.
        """
        answering = self._answering(top_k, unknown, sets, all_probabilities)
        return self._answers(expanded(images, skip), skip, answering)

    def with_features(
        self,
        images: Iterable[Given],
        top_k: int = 5,
        *,
        unknown: bool | float | None = None,
        sets: bool | float | None = None,
    ) -> Iterator[tuple[Prediction, Float[np.ndarray, " e"]]]:
        """Returns an iterator over the answers of `stream` with `skip`, each with a feature.

        It is the feature of the image (see `features`); that of an unreadable image means nothing.
        """
        answering = self._answering(top_k, unknown, sets, False)
        asked = replace(answering.asked, embedded=True)
        for errors, outputs in self._batches(iter(images), True, asked):
            yield from zip(_answered(answering, errors, outputs), outputs.embedded, strict=True)

    def _answering(
        self,
        top_k: int,
        unknown: bool | float | None,
        sets: bool | float | None,
        all_probabilities: bool,
    ) -> Answering:
        """Returns the way to answers. Raises UserError for options as `predict` does."""
        if top_k < 1:
            raise UserError(f"top_k is {top_k}; it must be at least 1.")
        view, threshold, limits = self.calibration, None, None
        if (unknown or sets) and view is None:
            raise UserError(
                f"{self._workdir} holds no {calibration_file.NAME} for these answers: it is needed "
                f"for unknown images and for sets. Run `lift-jax calibrate --run={self._workdir}`, "
                "which needs a validation split."
            )
        if view is not None:
            keep = asked_share("unknown", unknown, view.keep)
            coverage = asked_share("sets", sets, view.coverage)
            threshold = None if keep is None else view.unknown_threshold(keep)
            if coverage is not None:
                limits = view.set_thresholds(coverage)
                if len(view.labels) < (need := conformal.fewest(coverage)):
                    atomic.warn(
                        f"Sets for {coverage:g} need {need:,} validation images, and there are "
                        f"{len(view.labels):,}: every set holds all classes."
                    )
        return Answering(self.class_names, top_k, view, threshold, limits, all_probabilities)

    def logits(self, images: Iterable[Given] | Given) -> Float[np.ndarray, "n c"]:
        """Returns the logits of images, the mean of those of several crops.

        Raises UserError as `predict` does without `skip`.
        """
        return self._stacked(images, Asked(logits=True), len(self.class_names))

    def features(self, images: Iterable[Given] | Given) -> Float[np.ndarray, "n e"]:
        """Returns the features of images, the mean of those of several crops.

        They are what the classifier's head takes: with the default head of unit length. Raises
        UserError as `predict` does without `skip`.
        """
        return self._stacked(images, Asked(embedded=True), 0)

    def _stacked(self, images: Iterable[Given] | Given, asked: Asked, width: int) -> np.ndarray:
        batches = self._batches(iter(files(images)), False, asked)
        parts = [found.logits if asked.logits else found.embedded for _, found in batches]
        return np.concatenate(parts) if parts else np.zeros((0, width), np.float32)

    def _answers(
        self, images: Iterator[Given], skip: bool, answering: Answering
    ) -> Iterator[Prediction]:
        for errors, outputs in self._batches(images, skip, answering.asked):
            yield from _answered(answering, errors, outputs)

    def _batches(
        self, images: Iterator[Given], skip: bool, asked: Asked
    ) -> Iterator[tuple[list[str], Outputs]]:
        """Yields for each batch why an image is unreadable, else "", and the outputs.

        The device works on one batch while the host reads the outputs of the one before.
        """
        waiting: tuple[list[str], Sent] | None = None
        try:
            for errors, rows in self._read(images, skip):
                sent = self._outputs(self._leaves, put_batch(self._mesh, rows), asked=asked)
                if waiting:
                    yield _fetched(*waiting)
                waiting = errors, sent
        except UserError:  # an image that cannot be read: the batch before it is answered
            if waiting:
                yield _fetched(*waiting)
            raise
        if waiting:
            yield _fetched(*waiting)

    def _read(self, images: Iterator[Given], skip: bool) -> Iterator[tuple[list[str], HostBatch]]:
        """Yields for each batch why an image is unreadable, else "", and the batch."""
        first = size = 0
        while given := list(itertools.islice(images, READ_AHEAD * self._batch)):
            # fewer images than a batch are not padded to its full size
            size = size or min(self._batch, 2 ** max(0, len(given) - 1).bit_length())
            size = -(-size // self._mesh.size) * self._mesh.size  # on all devices
            split = Split(GivenImages(given, self._how, first), np.zeros(len(given)), skip=skip)
            batches = loader.eval_batches(split, self._view, batch=size)
            for start, rows in zip(range(0, len(given), size), batches, strict=True):
                names = range(start, min(start + size, len(given)))
                yield [split.unreadable.get(split.images.name(i), "") for i in names], rows
            first += len(given)


def _fetched(errors: list[str], sent: Sent) -> tuple[list[str], Outputs]:
    """Returns the outputs of a batch on the host, without those of its padding."""
    return errors, Outputs(*(np.asarray(each)[: len(errors)] for each in sent))


def _answered(answering: Answering, errors: list[str], outputs: Outputs) -> list[Prediction]:
    """Returns the answers to a batch of images; those with an error could not be read."""
    found = answering.answers(outputs)
    return [Prediction(error=e) if e else one for e, one in zip(errors, found, strict=True)]
