"""What blocks compute again in the backward pass, instead of keeping it (train.remat)."""

from collections.abc import Sequence
from typing import NamedTuple

from rich.filesize import decimal

from lift_jax.errors import UserError
from lift_jax.models.backbone import BackboneConfig, Tower
from lift_jax.models.blocks import backward
from lift_jax.models.blocks.layers import has_fused_attention
from lift_jax.models.resnet import ResNet, ResNetConfig
from lift_jax.parallel.memory import device_memory
from lift_jax.settings.schema import Settings
from lift_jax.training.needs import kept_blocks
from lift_jax.training.placement import chosen_precision

# Arrays of the size of a block's output that are kept a block until the backward pass. Measured: 12
# to 13 on H100 and H200, where attention is cuDNN's, for ViT-B/16 and L/14; about 29 by autodiff
# with softmax scores, of which 9 are three arrays of scores [heads n n].
FUSED, PLAIN, SCORES = 13, 20, 3
SHARE = 0.8  # of a device's memory that activations may take, beside weights and tests


class Remat(NamedTuple):
    """What blocks compute again in the backward pass, and why; "" if the user chose it."""

    chosen: str
    why: str


def choose_remat(
    settings: Settings, names: Sequence[str], backbone: BackboneConfig, devices: int
) -> Remat:
    """Returns the value of train.remat, or what auto chooses.

    The arguments are those of `needed_memory`. What auto chooses on a GPU or TPU rests on an
    estimate.
    """
    chosen, vision = settings.train.remat, backbone.vision
    if chosen != "auto":
        return Remat(chosen, "")
    if isinstance(vision, ResNetConfig):
        return Remat("none", "a ResNet has no transformer blocks")
    if backward.is_lean():
        return Remat("none", "on CPUs the backward passes keep few arrays as they are")
    held = device_memory()
    if held is None:
        return Remat("none", "the device does not tell its memory")
    precision = chosen_precision(settings.model)
    products, stream = precision.products.itemsize, precision.stream.itemsize
    tokens = vision.grid**2
    arrays = float(FUSED)
    if not (products == 2 and has_fused_attention()):
        arrays = PLAIN + SCORES * vision.heads * tokens / vision.width
    rows = settings.train.batch // settings.train.accum // devices
    one = arrays * products + 2 * (stream - products)  # bytes; the stream is kept twice a block
    size = int(rows * kept_blocks(settings, names, vision) * tokens * vision.width * one)
    why = f"{decimal(size)} of activations by estimate, {decimal(held)} on the device"
    return Remat("none" if size <= SHARE * held else "dots", why)


def use_remat(visual: Tower, remat: str) -> None:
    """Sets what the blocks compute again in the backward pass (train.remat).

    Raises UserError for a ResNet, unless `remat` is none.
    """
    if remat == "none":
        return
    if isinstance(visual, ResNet):
        raise UserError("train.remat is for transformer blocks: leave it at 'auto' for a ResNet.")
    visual.remat = remat
