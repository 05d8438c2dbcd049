"""The answer to an image: its likeliest classes, and what the calibration of the run adds."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from scipy.special import softmax

from lift_jax.errors import UserError
from lift_jax.evaluation import conformal, unknown
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

    def answers(
        self,
        probabilities: Float[np.ndarray, "n c"],
        logits: Float[np.ndarray, "n c"],
        embedded: Float[np.ndarray, "n e"],
    ) -> list[Prediction]:
        """Returns the answers to images.

        `probabilities` are the softmax of the logits. They give the order of the classes, also
        where those that are shown are calibrated.
        """
        order = np.argsort(-probabilities, axis=1, kind="stable")
        if self.view is not None:
            probabilities = softmax(logits.astype(np.float64) / self.view.temperature, axis=1)
        strange, members = self._strange(logits, embedded), self._members(logits, order)
        found = []
        for i, ranked in enumerate(order):
            best = ranked[: self.top_k]
            inside = members if members is None else ranked[members[i, ranked]]
            found.append(
                Prediction(
                    self._names(best), tuple(probabilities[i, best].tolist()),
                    unknown=bool(strange[i]),
                    prediction_set=None if inside is None else self._names(inside),
                    all_probabilities=tuple(probabilities[i].tolist()) if self.everything else (),
                )
            )  # fmt: skip
        return found

    def _names(self, classes: np.ndarray) -> tuple[str, ...]:
        return tuple(self.class_names[c] for c in classes)

    def _strange(self, logits: np.ndarray, embedded: np.ndarray) -> np.ndarray:
        """Returns True for each image that is unknown."""
        if self.view is None or self.threshold is None:
            return np.zeros(len(logits), bool)
        score = self.view.unknown_score
        if self.view.means is not None:
            found = unknown.cosines(embedded, self.view.means)
        else:
            found = unknown.scores_of_logits(logits, score, self.view.temperature)
        return found < self.threshold

    def _members(self, logits: np.ndarray, order: np.ndarray) -> np.ndarray | None:
        """Returns True for each class of an image's set, None if no sets are asked."""
        if self.view is None or self.limits is None:
            return None
        view = self.view
        inside = conformal.class_scores(logits, view.set_score, view.train_counts) <= self.limits
        inside[np.arange(len(logits)), order[:, 0]] = True
        return inside


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
