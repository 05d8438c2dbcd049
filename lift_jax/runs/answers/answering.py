"""The answer to an image: its likeliest classes, and what the calibration of the run adds."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import numpy as np
import scipy  # loads its slow submodules at their first use
from jaxtyping import Float, Int

from lift_jax.errors import UserError
from lift_jax.evaluation.trust import conformal, unknown
from lift_jax.runs.answers.calibration_file import View

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of an image, best first; none if it could not be read (`error`).

    Attributes:
        unknown: True if the image is probably of no class of the run, where that was asked.
        prediction_set: the classes among which the true one is, as often as was asked; None where
            it was not. It holds the likeliest class at least.
        all_probabilities: of every class in the run's order, where that was asked.
    """

    labels: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    error: str = ""
    unknown: bool = False
    prediction_set: tuple[str, ...] | None = None
    all_probabilities: tuple[float, ...] = field(default=(), repr=False)

    @property
    def answer(self) -> str:
        """Returns the likeliest class or "unknown"; "" if the image could not be read."""
        return UNKNOWN if self.unknown else self.labels[0] if self.labels else ""


@dataclass(frozen=True)
class Asked:
    """The outputs that are asked of the device for each image; no others are sent to the host.

    Attributes:
        ranks: number of likeliest classes.
        probabilities: True for the softmax of all logits.
        logits: True for all logits.
        embedded: True for the features that the head takes.
    """

    ranks: int = 0
    probabilities: bool = False
    logits: bool = False
    embedded: bool = False


class Outputs(NamedTuple):
    """The outputs for a batch, on the host; without columns where they are not asked (`Asked`).

    `best` are the likeliest classes, best first, and `shares` their probabilities.
    """

    best: Int[np.ndarray, "n k"]
    shares: Float[np.ndarray, "n k"]
    probabilities: Float[np.ndarray, "n c"]
    logits: Float[np.ndarray, "n c"]
    embedded: Float[np.ndarray, "n e"]


def outputs_of(logits: jax.Array, embedded: jax.Array, asked: Asked) -> tuple[jax.Array, ...]:
    """Returns the fields of `Outputs`, on the device.

    Of equal probabilities the first class comes first.
    """
    probabilities = jax.nn.softmax(logits)
    shares, best = jax.lax.top_k(probabilities, asked.ranks)
    return (
        best, shares,
        probabilities if asked.probabilities else probabilities[:, :0],
        logits if asked.logits else logits[:, :0],
        embedded if asked.embedded else embedded[:, :0],
    )  # fmt: skip


@dataclass(frozen=True)
class Answering:
    """The way from the outputs of the classifier to answers.

    Attributes:
        class_names: in the order of the logits.
        top_k: number of classes of an answer.
        view: the calibration; None without one.
        threshold: the score below which an image is unknown; None if it is not asked.
        limits: the largest score of each class in a set; None if no sets are asked.
        everything: True for the probabilities of all classes as well.
    """

    class_names: Sequence[str]
    top_k: int
    view: View | None = None
    threshold: float | None = None
    limits: Float[np.ndarray, " c"] | None = None
    everything: bool = False

    @property
    def asked(self) -> Asked:
        """Returns what the answers need. A calibration reads all logits, in float64."""
        view = self.view
        return Asked(
            ranks=min(self.top_k, len(self.class_names)),
            probabilities=self.limits is not None or (self.everything and view is None),
            logits=view is not None,
            embedded=view is not None and view.means is not None and self.threshold is not None,
        )

    def answers(self, found: Outputs) -> list[Prediction]:
        """Returns the answers to images.

        The probabilities of the device give the order of the classes, also where those that are
        shown are calibrated.
        """
        shares, everything = found.shares, found.probabilities
        if self.view is not None:
            logits = found.logits.astype(np.float64)
            everything = scipy.special.softmax(logits / self.view.temperature, axis=1)
            shares = np.take_along_axis(everything, found.best, axis=1)
        strange, members = self._strange(found), self._members(found)
        answers = []
        for i, best in enumerate(found.best):
            answers.append(
                Prediction(
                    self._names(best), tuple(shares[i].tolist()),
                    unknown=bool(strange[i]),
                    prediction_set=None if members is None else self._names(members[i]),
                    all_probabilities=tuple(everything[i].tolist()) if self.everything else (),
                )
            )  # fmt: skip
        return answers

    def _names(self, classes: np.ndarray) -> tuple[str, ...]:
        return tuple(self.class_names[int(c)] for c in classes)

    def _strange(self, found: Outputs) -> np.ndarray:
        """Returns True for each image that is unknown."""
        view = self.view
        if view is None or self.threshold is None:
            return np.zeros(len(found.best), bool)
        if view.means is not None:
            scores = unknown.cosines(found.embedded, view.means)
        else:
            scores = unknown.scores_of_logits(found.logits, view.unknown_score, view.temperature)
        return scores < self.threshold

    def _members(self, found: Outputs) -> list[np.ndarray] | None:
        """Returns the classes of each image's set, likeliest first; None if no sets are asked."""
        view = self.view
        if view is None or self.limits is None:
            return None
        scores = conformal.class_scores(found.logits, view.set_score, view.train_counts)
        inside = scores <= self.limits
        inside[np.arange(len(inside)), found.best[:, 0]] = True
        members = []
        for row, probabilities in zip(inside, found.probabilities, strict=True):
            classes = np.flatnonzero(row)
            members.append(classes[np.argsort(-probabilities[classes], kind="stable")])
        return members


def asked_share(option: str, value: bool | float | None, default: float) -> float | None:
    """Returns the share that an option asks for: True is the default, None and False none.

    Raises UserError unless it is more than 0 and less than 1.
    """
    if value is None or value is False:
        return None
    share = default if value is True else value
    if not 0 < share < 1:
        raise UserError(f"{option} is {share}; expected a share between 0 and 1, such as 0.9.")
    return float(share)
