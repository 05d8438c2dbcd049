"""The answers of the page: for each image all that a run says of it, as plain values for JSON."""

import base64
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lift_jax.app import rarity
from lift_jax.app.limits import BATCH
from lift_jax.app.training_images import TrainingImages, small_jpeg
from lift_jax.app.uploads import Upload
from lift_jax.data.images import decode
from lift_jax.data.images.decode import UnreadableImage
from lift_jax.errors import UserError
from lift_jax.evaluation.trust import conformal
from lift_jax.output.plain import printable
from lift_jax.runs import pushed
from lift_jax.runs.answers import calibration_file
from lift_jax.runs.answers.answering import Prediction
from lift_jax.runs.predictor import Predictor
from lift_jax.storage.names import expand_user

TOP = 5  # classes of an answer


class Answerer:
    """A run that answers uploads. One thread at a time may use it.

    Attributes:
        predictor: the classifier.
        training: the training images.
        notes: sentences that say what the run cannot answer, and what to do.

    Raises UserError as `Predictor` does.
    """

    def __init__(self, run: str | Path, tte: bool | None = None):
        workdir = expand_user(pushed.folder_of(run))
        self.predictor = Predictor(workdir, tte=tte, batch=BATCH)
        settings, view = self.predictor.settings, self.predictor.calibration
        self._names = [printable(name) for name in self.predictor.class_names]
        self._number = {name: c for c, name in enumerate(self.predictor.class_names)}
        self._how = decode.Decoding(fast=True, exif=settings.data.exif)
        self._rarity = rarity.read(workdir, len(self._names))
        self.training = TrainingImages(workdir, settings, self.predictor.weights)
        self._sets = view is not None and len(view.labels) >= conformal.fewest(view.coverage)
        self.notes = [*self._lacks(workdir), *self.training.notes]

    def _lacks(self, workdir: Path) -> Iterator[str]:
        view = self.predictor.calibration
        if view is None:
            yield (
                f"The run has no {calibration_file.NAME} for these answers: probabilities are not "
                "calibrated, no image counts as unknown, and there are no sets. "
                f"Run lift-jax calibrate --run={workdir}."
            )
        elif not self._sets:
            yield (
                f"There are no sets: {len(view.labels):,} validation images are too few for sets "
                f"that hold the true class for {100 * view.coverage:g} % of images."
            )
        if self._rarity is None:
            yield "The run folder does not say how many training images each class has."

    def warm_up(self) -> None:
        """Compiles the classifier for every size of a batch, so that no request waits for it."""
        for size in (2**i for i in range(BATCH.bit_length())):
            self.predictor.predict([np.zeros((8, 8, 3), np.uint8)] * size)

    def about(self) -> dict[str, Any]:
        """Returns what holds for all answers."""
        view = self.predictor.calibration
        return {
            "calibrated": view is not None,
            "coverage": view.coverage if view is not None and self._sets else None,
            "notes": [printable(note) for note in self.notes],
        }

    def answer(self, uploads: Sequence[Upload]) -> dict[str, Any]:
        """Returns the answers to images, in their order; a bad image has its `error` alone."""
        entries = [self._entry(upload) for upload in uploads]
        good = [i for i, entry in enumerate(entries) if not entry["error"]]
        known = self.predictor.calibration is not None
        pairs = list(
            self.predictor.with_features(
                [bytes(uploads[i].content) for i in good], TOP, unknown=known, sets=self._sets
            )
        )
        near = self.training.nearest(np.array([feature for _, feature in pairs]))
        for i, (one, _), alike in zip(good, pairs, near, strict=True):
            entries[i] |= self._told(one, alike)
        return {"images": entries, **self.about()}

    def _entry(self, upload: Upload) -> dict[str, Any]:
        """Returns the name of an image, and a small picture of it or the reason why it has none."""
        entry: dict[str, Any] = {"name": upload.name, "error": "", "thumbnail": None}
        if upload.error:
            return entry | {"error": _sentence(upload.error)}
        try:
            small = small_jpeg(decode.open_image(bytes(upload.content), "", self._how))
        except UnreadableImage as error:
            return entry | {"error": _sentence(error.cause)}
        except UserError as error:
            return entry | {"error": str(error)}
        return entry | {"thumbnail": f"data:image/jpeg;base64,{base64.b64encode(small).decode()}"}

    def _told(self, one: Prediction, alike: list[tuple[int, float]]) -> dict[str, Any]:
        """Returns what the run says of an image."""
        if one.error:
            return {"error": one.error, "thumbnail": None}
        names = [self._number[label] for label in one.labels]
        inside = one.prediction_set
        return {
            "answer": printable(one.answer),
            "unknown": one.unknown,
            "classes": [
                {"name": self._names[c], "probability": share, **self._rare(c)}
                for c, share in zip(names, one.probabilities, strict=True)
            ],
            "set": None if inside is None else [printable(name) for name in inside],
            "neighbours": [
                {
                    "class": self._names[self.training.labels[number]],
                    "similarity": cosine,
                    "image": f"training/{number}" if self.training.shown(number) else None,
                }
                for number, cosine in alike
            ],
        }

    def _rare(self, c: int) -> dict[str, Any]:
        if self._rarity is None:
            return {"train_images": None, "group": None}
        return {"train_images": self._rarity.counts[c], "group": self._rarity.groups[c]}


def _sentence(cause: str) -> str:
    text = printable(cause).rstrip(".")
    return f"{text[:1].upper()}{text[1:]}."
