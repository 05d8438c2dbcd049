"""The plan of LT-Soups: for each stage the images, the epochs and the loss of its models."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int

from lift_jax.data import splits
from lift_jax.data.batches.order import steps_per_epoch
from lift_jax.data.types import Dataset
from lift_jax.settings.groups.loss import LossSettings
from lift_jax.settings.schema import Settings

WHOLE = -1  # the factor that stands for the whole training set
BALANCED = 0  # the factor whose subset has as many images of each class, so it needs no adjustment


@dataclass(frozen=True)
class Stage:
    """One stage: models that are tuned on the same subset, from the same start.

    Attributes:
        number: its number, counted from 1.
        of: number of stages.
        factor: of soups.factors.
        most: largest number of images of a class; 0 for the whole training set.
    """

    number: int
    of: int
    factor: int
    most: int

    def subset(self, data: Dataset) -> Dataset:
        """Returns the data set with the training images of this stage."""
        if not self.most:
            return data
        return replace(data, train=splits.capped(data.train, self.most, self.number - 1))

    @property
    def images(self) -> str:
        """Returns the choice of the images in words."""
        return f"at most {self.most:,} images a class" if self.most else "all images"


@dataclass(frozen=True)
class Model:
    """One model of a stage; `number` is counted from 1."""

    stage: Stage
    number: int
    of: int

    @property
    def folder(self) -> str:
        """Returns the name of its folder."""
        return f"stage_{self.stage.number}_model_{self.number}"

    @property
    def title(self) -> str:
        """Returns its place in the plan in words."""
        return f"stage {self.stage.number} of {self.stage.of}, model {self.number} of {self.of}"

    def settings(self, settings: Settings, images: int) -> Settings:
        """Returns the settings of its training on a subset of so many images."""
        s = settings
        return replace(
            s,
            seed=seed(s.seed, self.stage.number, self.number),
            loss=LossSettings(name="ce") if self.stage.factor == BALANCED else s.loss,
            train=replace(s.train, epochs=epochs(s, images)),
        )


def stages(settings: Settings, counts: Int[np.ndarray, " c"]) -> list[Stage]:
    """Returns the stages for the training counts, in their order.

    Classes without an image do not count as the smallest.
    """
    factors, least = settings.soups.parsed_factors, int(counts[counts > 0].min())
    return [
        Stage(number, len(factors), factor, 0 if factor == WHOLE else least * 2**factor)
        for number, factor in enumerate(factors, 1)
    ]


def models(stage: Stage, count: int) -> Iterator[Model]:
    """Yields the models of a stage."""
    return (Model(stage, number, count) for number in range(1, count + 1))


def epochs(settings: Settings, images: int) -> int:
    """Returns train.epochs, or as many whole epochs as soups.least_steps needs."""
    steps = steps_per_epoch(images, settings.train.batch)
    return max(settings.train.epochs, -(-settings.soups.least_steps // steps))


def seed(run: int, stage: int, model: int) -> int:
    """Returns the seed of a model's images and crops, which no other model or run has."""
    return int(np.random.SeedSequence((run, stage, model)).generate_state(1)[0])
