"""The settings of LT-Soups: its models, the subsets of the images, and the joining."""

import re
from dataclasses import dataclass

from lift_jax.errors import UserError, shown
from lift_jax.settings.setting import setting


@dataclass(frozen=True, kw_only=True)
class SoupsSettings:
    """LT-Soups: models tuned on subsets of the images, joined stage by stage (method=lt_soups)."""

    models: int = setting(
        0,
        "Number of models in each stage. They start from the same weights and see the same images "
        "in different orders and crops; their mean is the model of the stage. At the end, the "
        "classifier alone is tuned on all images. 0: ordinary training without stages.",
        low=0,
        high=1000,
        before=0,
    )
    factors: str = setting(
        "0,1,2,3,4,5,6",
        "Subsets of the stages, separated by commas. Factor f keeps at most 2^f times as many "
        "images of each class as the smallest class has; -1 keeps all. Factor 0 is tuned with "
        "plain cross-entropy.",
        before="0,1,2,3,4,5,6",
    )
    join: float = setting(
        0.7,
        "Weight w of a stage's model s when it is joined to the model m of the stages before it: "
        "(1 - w) m + w s.",
        low=0,
        high=1,
        exclusive="low",
        before=0.7,
    )
    least_steps: int = setting(
        100,
        "Least number of steps of each model. A shorter stage trains for more epochs.",
        low=0,
        high=2**31 - 1,
        before=100,
    )

    @property
    def parsed_factors(self) -> tuple[int, ...]:
        """Returns the factors as numbers. Raises UserError for a text that is no list of them."""
        parts = [part.strip() for part in self.factors.split(",")]
        if not all(re.fullmatch(r"-1|[12]?[0-9]", part) for part in parts):
            raise UserError(
                f"soups.factors is {shown(self.factors)}; expected numbers from -1 to 29 with "
                "commas between them, like 0,1,2,3."
            )
        return tuple(map(int, parts))
