"""Square views of an image, cut and resized on the host as uint8.

Pillow resizes, and sizes and offsets are rounded as in torchvision, so that every grey level equals
torchvision's. The device normalises, because uint8 takes a quarter of the bytes of float32. All
randomness comes from the generator in the arguments.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from lift_jax.data.images.crops import SCHEDULES, mda_box, min_scale, rrc_box
from lift_jax.data.images.cuts import Cut, centre, corners, short_side_to, shown
from lift_jax.data.images.decode import Picture
from lift_jax.data.images.resize import FILTERS
from lift_jax.errors import UserError, unknown


@dataclass(frozen=True)
class TrainTransform:
    """One random view of a training image.

    `kind` is 'mda' (LIFT+: a square crop whose smallest area follows the schedule `mda`), 'rrc'
    (LIFT: RandomResizedCrop from `min_area`) or 'none' (the test view). With `flip`, half of the
    images are mirrored. `epochs` is the length of the run, which the schedule needs.
    """

    res: int
    kind: str
    interpolation: str
    mda: str
    min_area: float
    flip: bool
    epochs: int

    def __post_init__(self):
        _check_view(self.res, self.interpolation)
        if self.kind not in ("mda", "rrc", "none"):
            raise unknown("augmentation (train.augment)", self.kind, ("mda", "rrc", "none"))
        if self.mda not in SCHEDULES:
            raise unknown("crop schedule (train.mda)", self.mda, SCHEDULES)
        if not 0 < self.min_area <= 1:
            raise UserError(
                f"train.min_area is a share of the image's area: expected a number above 0 and at "
                f"most 1, found {self.min_area}. The papers use 0.08."
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Returns the shape of a view."""
        return self.res, self.res, 3

    def __call__(
        self, image: Picture | Image.Image | np.ndarray, rng: np.random.Generator, epoch: int
    ) -> UInt8[np.ndarray, "{self.res} {self.res} 3"]:
        """Returns a view of `image` drawn from `rng`, as in `epoch` (0-based)."""
        image = Picture.of(image)
        cuts = self.cuts(image.height, image.width, rng, epoch)
        return shown(image, cuts, self.res, self.interpolation)[0]

    def cuts(self, height: int, width: int, rng: np.random.Generator, epoch: int) -> list[Cut]:
        """Draws what the view of an image of this size shows."""
        if self.kind == "none":
            cut = TestTransform(self.res, self.interpolation).cuts(height, width)[0]
        elif self.kind == "mda":
            low = min_scale(self.mda, epoch, self.epochs, self.min_area)
            cut = Cut(mda_box(height, width, low, rng), (self.res, self.res))
        else:
            cut = Cut(rrc_box(height, width, self.min_area, rng), (self.res, self.res))
        return [cut._replace(mirrored=self.flip and rng.random() < 0.5)]


@dataclass(frozen=True)
class TestTransform:
    """The plain view: short side to res + `expand`, then the centred res x res square.

    Tests expand by res // 7. Images for the start of a head are not expanded.
    """

    __test__ = False  # else pytest would collect a class of this name

    res: int
    interpolation: str = "bicubic"
    expand: int | None = None  # None: res // 7

    def __post_init__(self):
        _check_view(self.res, self.interpolation)

    @property
    def shape(self) -> tuple[int, ...]:
        """Returns the shape of a view."""
        return self.res, self.res, 3

    def __call__(
        self, image: Picture | Image.Image | np.ndarray
    ) -> UInt8[np.ndarray, "{self.res} {self.res} 3"]:
        """Returns the view of `image`."""
        image = Picture.of(image)
        cuts = self.cuts(image.height, image.width)
        return shown(image, cuts, self.res, self.interpolation)[0]

    def cuts(self, height: int, width: int) -> list[Cut]:
        """Returns what the view of an image of this size shows."""
        expand = self.res // 7 if self.expand is None else self.expand
        size = short_side_to(height, width, self.res + expand)
        return [Cut((0, 0, width, height), size, centre(*size, self.res))]


@dataclass(frozen=True)
class FiveCrop:
    """The views of test-time ensembling: short side to res + expand, then corners and centre.

    Their order is top left, top right, bottom left, bottom right, centre.
    """

    res: int
    expand: int = 24
    interpolation: str = "bicubic"

    def __post_init__(self):
        _check_view(self.res, self.interpolation)
        if self.expand < 0:
            raise UserError(
                f"test.expand is how many pixels an image is larger than its crops: expected 0 or "
                f"more, found {self.expand}."
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Returns the shape of the five views."""
        return 5, self.res, self.res, 3

    def __call__(
        self, image: Picture | Image.Image | np.ndarray
    ) -> UInt8[np.ndarray, "5 {self.res} {self.res} 3"]:
        """Returns the five views of `image`."""
        image = Picture.of(image)
        cuts = FiveCrop.cuts(self, image.height, image.width)
        return np.stack(shown(image, cuts, self.res, self.interpolation))

    def cuts(self, height: int, width: int) -> list[Cut]:
        """Returns what the views of an image of this size show."""
        size = short_side_to(height, width, self.res + self.expand)
        return [Cut((0, 0, width, height), size, place) for place in corners(*size, self.res)]


@dataclass(frozen=True)
class TenCrop(FiveCrop):
    """The five views of an image, then those of its mirror image (LIFT)."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Returns the shape of the ten views."""
        return 10, self.res, self.res, 3

    def __call__(
        self, image: Picture | Image.Image | np.ndarray
    ) -> UInt8[np.ndarray, "10 {self.res} {self.res} 3"]:
        """Returns the ten views of `image`."""
        image = Picture.of(image)
        cut = FiveCrop.cuts(self, image.height, image.width)[0]
        image = image.held([(cut.box, cut.size)])
        return np.concatenate([super().__call__(image), super().__call__(image.mirrored())])

    def cuts(self, height: int, width: int) -> list[Cut]:
        """Returns what the views of an image of this size show."""
        five = super().cuts(height, width)
        # a square at distance d from the left of the mirror image lies at d from the right here
        return five + [
            cut._replace(place=(cut.place[0], cut.size[1] - self.res - cut.place[1]), mirrored=True)
            for cut in five
        ]


@dataclass(frozen=True)
class RandomCrops:
    """`views` random resized crops of an image, half of them mirrored (LIFT)."""

    res: int
    views: int
    interpolation: str
    min_area: float

    def __post_init__(self):
        _check_view(self.res, self.interpolation)

    @property
    def shape(self) -> tuple[int, ...]:
        """Returns the shape of the views."""
        return self.views, self.res, self.res, 3

    def __call__(
        self, image: Picture | Image.Image | np.ndarray, rng: np.random.Generator
    ) -> UInt8[np.ndarray, "{self.views} {self.res} {self.res} 3"]:
        """Returns views of `image` drawn from `rng`."""
        image = Picture.of(image)
        cuts = self.cuts(image.height, image.width, rng)
        return np.stack(shown(image, cuts, self.res, self.interpolation))

    def cuts(self, height: int, width: int, rng: np.random.Generator) -> list[Cut]:
        """Draws what the views of an image of this size show."""
        cuts = []
        for _ in range(self.views):
            box = rrc_box(height, width, self.min_area, rng)
            cuts.append(Cut(box, (self.res, self.res), mirrored=rng.random() < 0.5))
        return cuts


View = TestTransform | FiveCrop | RandomCrops  # views for tests
CROPS = ("five", "ten", "random")  # kinds of test-time ensembles (test.crops)


def ensemble(
    crops: str, res: int, interpolation: str, *, expand: int, views: int, min_area: float
) -> View:
    """Returns the views of a test-time ensemble, one of `CROPS`.

    `expand` applies to five and ten crops, `views` and `min_area` to random ones.
    """
    if crops == "random":
        return RandomCrops(res, views, interpolation, min_area)
    return {"five": FiveCrop, "ten": TenCrop}[crops](res, expand, interpolation)


def _check_view(res: int, interpolation: str) -> None:
    if res < 1:
        raise UserError(f"The image resolution must be at least 1 pixel, found {res}.")
    if interpolation not in FILTERS:
        raise unknown("interpolation", interpolation, FILTERS)
