"""Square views of an image, cut and resized on the host as uint8.

Pillow resizes, and sizes and offsets are rounded as in torchvision, so that every grey level equals
torchvision's. The device normalises, because uint8 takes a quarter of the bytes of float32. All
randomness comes from the generator in the arguments.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from lift_jax.data.images.decode import Picture
from lift_jax.data.images.resize import FILTERS, Box, mirrored
from lift_jax.errors import UserError, unknown

# Growth of the smallest crop, from `min_area` (0) to the whole image (1), at training time t in
# [0, 1] (LIFT+, minimalist data augmentation).
SCHEDULES: dict[str, Callable[[float], float]] = {
    "convex": lambda t: 1.0 - math.sqrt(1.0 - t * t),
    "linear": lambda t: t,
    "concave": lambda t: math.sqrt(1.0 - (1.0 - t) ** 2),
    "min": lambda t: 0.0,
    "max": lambda t: 1.0,
}

ASPECTS = (3 / 4, 4 / 3)  # width / height of a RandomResizedCrop
STRIP = 64  # long side / short side above which a resized image is never formed whole


# --- boxes of training crops ---


def min_scale(mda: str, epoch: int, epochs: int, min_area: float = 0.08) -> float:
    """Returns s_t, the smallest area share of an MDA crop in `epoch` (0-based) of `epochs`.

    A run of one epoch keeps t = 0.
    """
    t = epoch / (epochs - 1) if epochs > 1 else 0.0
    return min_area + (1.0 - min_area) * SCHEDULES[mda](t)


def area_bounds(height: int, width: int, low: float) -> tuple[float, float]:
    """Returns the area shares between which an MDA crop is drawn, for a smallest share `low`.

    A square inside the image covers at most q = short side / long side, so both bounds stop there.
    """
    q = min(height, width) ** 2 / (height * width)
    return min(low, q), min(1.0, q)


def crop_side(height: int, width: int, share: float) -> int:
    """Returns the side in pixels of the square that covers `share` of the image."""
    return max(1, min(round(math.sqrt(share * height * width)), height, width))


def mda_box(height: int, width: int, low: float, rng: np.random.Generator) -> Box:
    """Draws the one crop of minimalist data augmentation (LIFT+): square, anywhere in the image."""
    side = crop_side(height, width, rng.uniform(*area_bounds(height, width, low)))
    top = int(rng.integers(height - side + 1))
    left = int(rng.integers(width - side + 1))
    return left, top, left + side, top + side


def rrc_box(height: int, width: int, min_area: float, rng: np.random.Generator) -> Box:
    """Draws a RandomResizedCrop: area share in [min_area, 1], log-uniform aspect in [3/4, 4/3].

    After ten draws that do not fit, returns the largest centred box of an allowed aspect.
    """
    for _ in range(10):
        area = height * width * rng.uniform(min_area, 1.0)
        aspect = math.exp(rng.uniform(math.log(ASPECTS[0]), math.log(ASPECTS[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top = int(rng.integers(height - h + 1))
            left = int(rng.integers(width - w + 1))
            return left, top, left + w, top + h
    return central_box(height, width)


def central_box(height: int, width: int) -> Box:
    """Returns the largest centred box whose aspect lies in [3/4, 4/3]."""
    w, h = width, height
    if width / height < ASPECTS[0]:
        h = round(width / ASPECTS[0])
    elif width / height > ASPECTS[1]:
        w = round(height * ASPECTS[1])
    top, left = (height - h) // 2, (width - w) // 2
    return left, top, left + w, top + h


# --- resizing and cutting ---


def short_side_to(height: int, width: int, size: int) -> tuple[int, int]:
    """Returns (height, width) with the short side at `size` and the long side cut to an integer."""
    if width <= height:
        return int(size * height / width), size
    return size, int(size * width / height)


def centre(height: int, width: int, res: int) -> tuple[int, int]:
    """Returns (top, left) of the centred res x res square; halves go to the even neighbour."""
    return round((height - res) / 2.0), round((width - res) / 2.0)


def corners(height: int, width: int, res: int) -> list[tuple[int, int]]:
    """Returns (top, left) of the five crops: two above, two below, the centre."""
    down, right = height - res, width - res
    return [(0, 0), (0, right), (down, 0), (down, right), centre(height, width, res)]


class Cut(NamedTuple):
    """The part of an image that a view shows.

    The box of the image is resized to `size` (h, w); the view is the square at `place` (top, left)
    of the result, perhaps mirrored.
    """

    box: Box
    size: tuple[int, int]
    place: tuple[int, int] = (0, 0)
    mirrored: bool = False


def shown(
    image: Picture, cuts: list[Cut], res: int, interpolation: str
) -> list[UInt8[np.ndarray, "{res} {res} 3"]]:
    """Returns the res x res view of each cut.

    The image is decoded once, and cuts that differ in their place alone are resized once.
    """
    groups = [list(alike) for _, alike in groupby(cuts, lambda cut: cut._replace(place=(0, 0)))]
    if len(groups) > 1:
        image = image.held([(alike[0].box, alike[0].size) for alike in groups])
    return [view for alike in groups for view in squares(image, alike, res, interpolation)]


def squares(
    image: Picture, cuts: list[Cut], res: int, interpolation: str
) -> list[UInt8[np.ndarray, "{res} {res} 3"]]:
    """Returns the res x res view of each cut; they differ in their place alone."""
    box, (height, width), _, mirror = cuts[0]
    tops, lefts = zip(*(cut.place for cut in cuts), strict=True)
    if max(height, width) <= STRIP * min(height, width):
        left, top, right, bottom = min(lefts), min(tops), max(lefts) + res, max(tops) + res
        size, window = (height, width), (left, top, right, bottom)
        pixels = image.resized(box, size, interpolation, window, mirror)
        starts = [right - res - x if mirror else x - left for x in lefts]
        return [
            pixels[y - top :, start:][:res, :res] for y, start in zip(tops, starts, strict=True)
        ]
    # A resized 1 x 10,000 strip would fill gigabytes, so only the squares are computed. They are
    # equal up to rounding. Other images are resized whole, because Pillow chooses the order of its
    # two passes by size and rounds in between, which shows on sharp edges.
    source, resample = image.pillow(), FILTERS[interpolation]
    y, x = source.height / height, source.width / width  # source pixels per resized pixel
    ends = source.width, source.height
    boxes = (
        (left * x, top * y, min((left + res) * x, ends[0]), min((top + res) * y, ends[1]))
        for top, left in zip(tops, lefts, strict=True)
    )
    found = [np.asarray(source.resize((res, res), resample, box=box)) for box in boxes]
    return [mirrored(square) for square in found] if mirror else found


# --- the transforms that a loader holds ---


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
