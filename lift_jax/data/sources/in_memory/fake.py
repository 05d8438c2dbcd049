"""Images that are made up, for debug runs: nothing is read from disk."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, UInt8

from lift_jax.data.types import Dataset, Split
from lift_jax.settings.groups.data import DataSettings

COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 70, 210),
    "yellow": (230, 210, 50),
    "purple": (140, 50, 160),
    "orange": (240, 140, 30),
    "grey": (128, 128, 128),
}
FAKE_COUNTS = (25, 14, 9, 6, 4, 2, 1)


@dataclass(frozen=True)
class FakeImages:
    """Noisy images of their class's colour, of about 40 x 50 pixels; image i is always the same."""

    seed: int
    split: int
    labels: tuple[int, ...]
    rows: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> UInt8[np.ndarray, "h w 3"]:
        rng = np.random.default_rng((self.seed, self.split, self.rows[i]))
        height, width = rng.integers(37, 44), rng.integers(47, 54)
        colour = list(COLOURS.values())[self.labels[i]]
        noise = rng.normal(scale=40, size=(height, width, 3))
        return np.clip(colour + noise, 0, 255).astype(np.uint8)

    def name(self, i: int) -> str:
        return f"made-up {('train', 'test')[self.split]} image {self.rows[i]}"

    def take(self, rows: Int[np.ndarray, "m"]) -> "FakeImages":
        kept = (tuple(each[i] for i in rows.tolist()) for each in (self.labels, self.rows))
        return FakeImages(self.seed, self.split, *kept)


def fake(settings: DataSettings, seed: int) -> Dataset:
    """Makes images for debug runs: 7 colours, 61 training images (25 to 1 a class), 31 to test.

    Nothing is read from disk. Sizes vary, as photographs' do.
    """
    labels = np.repeat(np.arange(len(COLOURS)), FAKE_COUNTS), np.arange(31) % len(COLOURS)
    train, test = (
        Split(FakeImages(seed, which, tuple(each.tolist()), tuple(range(len(each)))), each)
        for which, each in enumerate(labels)
    )
    return Dataset(train, test, tuple(COLOURS))
