"""The part of a report on single answers: confused classes, sure mistakes, doubtful labels."""

import base64
from dataclasses import dataclass

import numpy as np

from lift_jax.evaluation.insight.confusions import Pair
from lift_jax.evaluation.insight.label_errors import FEWEST, Doubts
from lift_jax.output.plain import figure_text
from lift_jax.reports import page
from lift_jax.runs.finished_run import Run
from lift_jax.runs.kept import findings
from lift_jax.runs.kept.examples import Examples
from lift_jax.runs.kept.findings import DOUBTFUL, PairImages
from lift_jax.runs.kept.predictions import Predictions


@dataclass(frozen=True)
class ShownPair:
    """Two confused classes: their names, a line for each direction, and images."""

    first: str
    second: str
    there: str
    back: str
    photos: list[page.Photo]


@dataclass(frozen=True)
class ShownLabels:
    """The doubtful labels of a split: a heading, what was judged, and images."""

    title: str
    text: str
    photos: list[page.Photo]


@dataclass(frozen=True)
class Part:
    """What the page shows."""

    view: str
    pairs: list[ShownPair]
    mistakes: list[list[page.Photo]]
    has_neighbours: bool
    labels: list[ShownLabels]


def part(run: Run, key: str, kept: Predictions, examples: Examples | None) -> Part | None:
    """Returns the part of a run by the answers of a result.

    Returns None if the run keeps no answers by that result, or of other classes than its table has.
    """
    answers = kept.answers.get(key)
    if answers is None or not _fits(run, kept, answers.classes):
        return None
    album = _Album(run, kept, examples, answers.classes[:, 0], answers.probabilities[:, 0])
    found = findings.find(kept, answers)
    labels = [album.labels("test", found.doubts, kept.rows, kept.labels)]
    if examples is not None and examples.doubts is not None:
        labels.insert(0, album.labels("train", examples.doubts, None, examples.labels))
    return Part(
        f"Answers are those of {run.labels[key]}.",
        [album.pair(each) for each in found.pairs],
        [album.mistake(place) for place in found.worst.tolist()],
        examples is not None and bool(len(examples.mistakes)), labels,
    )  # fmt: skip


def _fits(run: Run, kept: Predictions, classes: np.ndarray) -> bool:
    most = max(int(classes.max(initial=-1)), int(kept.labels.max(initial=-1)))
    return most < len(run.names) and len(kept.rows) == len(kept.labels) == len(classes)


@dataclass(frozen=True)
class _Album:
    """The photos of a part, each with the lines below it."""

    run: Run
    kept: Predictions
    examples: Examples | None
    answered: np.ndarray
    probability: np.ndarray

    def name(self, c: int) -> str:
        """Returns the name of a class, a very long one cut."""
        return figure_text(self.run.names[c].replace("\n", " "))

    def photo(self, split: str, row: int, lines: list[str]) -> page.Photo:
        """Returns a photo; the path of its image is in its description."""
        key, images, names = f"{split}/{row}", {}, {}
        if self.examples is not None:
            images, names = self.examples.images, self.examples.names
        jpeg = base64.b64encode(images[key]).decode() if key in images else ""
        where = {"train": "training image", "test": "test image"}[split]
        alt = f"{where} {names.get(key, row)}: {', '.join(lines)}"
        return page.Photo(alt, jpeg, lines)

    def answer(self, place: int, *lines: str) -> page.Photo:
        """Returns the photo of a test image."""
        return self.photo("test", int(self.kept.rows[place]), list(lines))

    def sure(self, place: int) -> str:
        """Returns the probability of the answer to a test image."""
        return f"{self.probability[place]:.1%}"

    def pair(self, each: PairImages) -> ShownPair:
        """Returns two confused classes with their images."""
        pair = each.pair
        names = self.name(pair.first), self.name(pair.second)
        photos = []
        for typical, wrong, (own, other) in zip(
            each.typical, (each.there, each.back), (names, names[::-1]), strict=True
        ):
            if typical is not None:
                photos.append(self.answer(typical, own, "typical", self.sure(typical)))
            photos += [
                self.answer(place, own, f"answered {other}", self.sure(place)) for place in wrong
            ]
        return ShownPair(*names, *(_direction(pair, *names)), photos)

    def mistake(self, place: int) -> list[page.Photo]:
        """Returns a sure mistake and the training images most like it."""
        label, answer = int(self.kept.labels[place]), int(self.answered[place])
        lines = f"answered {self.name(answer)}", self.sure(place), f"labelled {self.name(label)}"
        photos, found = [self.answer(place, *lines)], self.examples
        if found is None:
            return photos
        for at in np.flatnonzero(found.mistakes == self.kept.rows[place])[:1]:
            rows, labels, cosines = (
                found.neighbours[at],
                found.neighbour_labels[at],
                found.cosines[at],
            )
            for row, c, cosine in zip(rows, labels, cosines, strict=True):
                if c < len(self.run.names):
                    lines = [self.name(int(c)), "in training", f"cosine {cosine:.2f}"]
                    photos.append(self.photo("train", int(row), lines))
        return photos

    def labels(
        self, split: str, doubts: Doubts, rows: np.ndarray | None, labels: np.ndarray
    ) -> ShownLabels:
        """Returns the doubtful labels of a split.

        With `rows`, the places of `doubts` are indices of `rows` and `labels`. Without, they are
        rows of the split, and `labels` are in the order of the places.
        """
        photos = []
        for i, place in enumerate(doubts.places[:DOUBTFUL].tolist()):
            row = place if rows is None else int(rows[place])
            label = int(labels[i] if rows is None else labels[place])
            likelier = int(doubts.likelier[i])
            if max(label, likelier) >= len(self.run.names):
                continue
            lines = [
                f"{self.name(likelier)}?", f"{doubts.other[i]:.1%}",
                f"labelled {self.name(label)}", f"{doubts.given[i]:.1%}",
            ]  # fmt: skip
            photos.append(self.photo(split, row, lines))
        title = {"train": "Training images", "test": "Test images"}[split]
        return ShownLabels(title, _judged(split, doubts, len(photos)), photos)


def _direction(pair: Pair, first: str, second: str) -> tuple[str, str]:
    """Returns a line for each direction of a pair, "" for one without images."""

    def line(own: str, other: str, wrong: int, images: int) -> str:
        share = wrong / max(1, images)
        return f"{wrong:,} of {images:,} images of {own} ({share:.1%}) are answered {other}."

    there = line(first, second, pair.there, pair.first_images)
    return there, line(second, first, pair.back, pair.second_images) if pair.back else ""


def _judged(split: str, doubts: Doubts, shown: int) -> str:
    """Returns what was judged, by what, and how many labels are doubtful."""
    by = {
        "train": "by the labels of the training images most like each before tuning",
        "test": "by the answers of the run",
    }[split]
    number = len(doubts.places)
    text = f"{number:,} of {doubts.judged:,} labels are doubtful, judged {by}"
    text += f"; the {shown} most doubtful are shown." if shown < number else "."
    if doubts.unjudged:
        text += f" Not judged, in classes of fewer than {FEWEST} images: {doubts.unjudged:,}."
    return text
