"""The findings of a test that a report shows: confused pairs, sure mistakes, doubtful labels.

They follow from the kept predictions alone, so that the test of a run, which keeps small copies of
the images, and its report, which shows them, choose the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from lift_jax.evaluation.insight import confusions, label_errors, mistakes
from lift_jax.evaluation.insight.confusions import Pair
from lift_jax.evaluation.insight.label_errors import Doubts
from lift_jax.runs.kept.predictions import Answers, Predictions

PAIRS, CONFUSED, WORST, DOUBTFUL = 8, 4, 12, 12  # shown: pairs, images each way, mistakes, labels


@dataclass(frozen=True)
class PairImages:
    """The images of a pair, as places in the predictions.

    Attributes:
        pair: the classes and numbers.
        typical: the surest right image of each class; None where there is none.
        there, back: the surest images of the first class that are taken for the second, and of the
            second that are taken for the first.
    """

    pair: Pair
    typical: tuple[int | None, int | None]
    there: list[int]
    back: list[int]


@dataclass(frozen=True)
class Findings:
    """The findings among the test images; places are those in the predictions."""

    pairs: list[PairImages]
    worst: Int[np.ndarray, " m"]
    doubts: Doubts

    def shown(self) -> Sequence[int]:
        """Returns the places of all images that are shown, ascending."""
        places = {*self.worst.tolist(), *self.doubts.places[:DOUBTFUL].tolist()}
        for each in self.pairs:
            typical = [place for place in each.typical if place is not None]
            places |= {*typical, *each.there, *each.back}
        return sorted(places)


def find(kept: Predictions, answers: Answers) -> Findings:
    """Returns the findings of a run by the answers of one of its results."""
    labels, answered, surest = kept.labels, answers.classes[:, 0], answers.probabilities[:, 0]

    def images(pair: Pair) -> PairImages:
        first, second = pair.first, pair.second
        typical = [mistakes.typical(labels, answered, surest, c) for c in (first, second)]
        ways = [
            mistakes.confused(labels, answered, surest, way, CONFUSED).tolist()
            for way in ((first, second), (second, first))
        ]
        return PairImages(pair, (typical[0], typical[1]), *ways)

    return Findings(
        [images(pair) for pair in confusions.pairs(labels, answered, PAIRS)],
        mistakes.worst(labels, answered, surest, WORST),
        label_errors.doubts(labels, answers.label, answers.classes, answers.probabilities),
    )
