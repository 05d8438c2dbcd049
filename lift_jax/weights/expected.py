"""The sizes that a source declares, held against limits and against its tensors.

It takes no time, however large the sizes are. So it comes before the backbone is built, which takes
time for every block.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from lift_jax.errors import UserError
from lift_jax.models.backbone import BackboneConfig
from lift_jax.models.resnet import ResNetConfig
from lift_jax.models.text import TextConfig
from lift_jax.models.vit.config import WORDS, VisionConfig

# The smallest and largest value of every size, far beyond all published backbones.
LIMITS = {
    "resolution": (1, 16_384), "patch": (1, 16_384), "width": (1, 2**17), "layers": (1, 1000),
    "heads": (0, 2**17), "mlp": (1, 2**20), "registers": (0, 10_000), "vocab": (1, 10**7),
    "context": (1, 10**5), "head": (0, 2**17), "embed": (0, 2**17), "stem": (1, 2**17),
    "channels": (1, 2**17), "eot": (0, 2**31 - 1), "eps": (0, 1), "rope": (0, 10**9),
    "mean": (-(10**6), 10**6), "std": (1e-6, 10**6), "feature": (0, 2**17),
    "pool_heads": (0, 2**17), "rope_grid": (0, 16_384), "rope_start": (0, 16_384),
    "pool_mlp": (0, 2**20),
}  # fmt: skip
# A difference up to here is left to the comparison of the tensors, which names them.
FEW_BLOCKS, FEW_NUMBERS = 100, 10**7


def check(config: BackboneConfig, tensors: Mapping[str, np.ndarray], where: str) -> None:
    """Raises UserError, which names the size, for sizes that the tensors cannot have.

    `where` names the source.
    """
    for name, value in _numbers(config):
        low, high = LIMITS[name.rpartition(".")[2]]
        if not low <= value <= high:
            raise UserError(
                f"{where} declares {name} {value}; expected {low} to {high:,}. Get file and config "
                "again, from one source."
            )
    vision, text = config.vision, config.text
    if isinstance(vision, VisionConfig):
        _check_heads("vision", vision, where)
        _check_pool(vision, where)
        if vision.grid < 1:
            raise UserError(
                f"{where} declares images of {vision.resolution} pixels in patches of "
                f"{vision.patch}; expected at least one patch."
            )
    if text is not None:
        _check_heads("text", text, where)
    blocks = _total(vision.layers) + (text.layers if text is not None else 0)
    held = sum(tensor.size for tensor in tensors.values())
    least = _least_numbers(config)
    if blocks > len(tensors) + FEW_BLOCKS or least > 10 * held + FEW_NUMBERS:
        raise UserError(
            f"{where} holds {len(tensors):,} tensors with {held:,} numbers, but its sizes need "
            f"{blocks:,} blocks with at least {least:,}. Get file and config again, from one "
            "source."
        )


def _check_heads(tower: str, sizes: VisionConfig | TextConfig, where: str) -> None:
    """Raises UserError unless the width of a transformer is a multiple of its heads."""
    if sizes.heads < 1 or sizes.width % sizes.heads:
        raise UserError(
            f"{where} declares {tower}.heads {sizes.heads}; expected a divisor of the width "
            f"{sizes.width}."
        )


def _check_pool(sizes: VisionConfig, where: str) -> None:
    """Raises UserError for an unknown pooling, and for one that cannot take the other sizes."""
    for field, words in WORDS.items():
        if (value := getattr(sizes, field)) not in words:
            raise UserError(
                f"{where} declares vision.{field} {value!r:.80}; expected one of "
                f"{', '.join(words)}. Get file and config again, from one source."
            )
    width, heads = sizes.feature or sizes.width, sizes.pool_heads or sizes.heads
    if sizes.pool in ("query", "map", "map_all") and width % heads:
        raise UserError(
            f"{where} declares {heads} heads of the attentional pooling; expected a divisor of its "
            f"width {width}."
        )
    if sizes.pool in ("cls", "pair") and sizes.prefix < (1 if sizes.pool == "cls" else 2):
        raise UserError(
            f"{where} declares vision.pool {sizes.pool!r} without the tokens that it reads. Get "
            "file and config again, from one source."
        )


def _numbers(config: Any, prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yields the numbers of a config by dotted names, those of tuples under one name."""
    for one in dataclasses.fields(config):
        value = getattr(config, one.name)
        if dataclasses.is_dataclass(value):
            yield from _numbers(value, f"{one.name}.")
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and not isinstance(number, bool):
                yield prefix + one.name, number


def _total(layers: int | tuple[int, ...]) -> int:
    return layers if isinstance(layers, int) else sum(layers)


def _least_numbers(config: BackboneConfig) -> int:
    """Returns a lower bound of the number of weights: large matrices alone."""
    vision, text = config.vision, config.text
    least = 0
    if isinstance(vision, ResNetConfig):
        for channels, layers in zip(vision.channels, vision.layers, strict=True):
            least += 9 * layers * channels**2
    else:
        least += _blocks(vision) + 3 * vision.patch**2 * vision.width
        least += vision.grid**2 * vision.width if vision.has_positions else 0
    if text is not None:
        least += _blocks(text) + (text.vocab + text.context) * text.width
    return least


def _blocks(sizes: VisionConfig | TextConfig) -> int:
    """Returns the number of weights in the attention and the MLP of all blocks."""
    return sizes.layers * sizes.width * (4 * sizes.width + 2 * sizes.mlp)
