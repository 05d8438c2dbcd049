"""The memory that the settings of a run need, estimated before anything is allocated."""

from collections.abc import Sequence

from lift_jax.models.backbone import BackboneConfig
from lift_jax.models.blocks import backward
from lift_jax.models.resnet import ResNetConfig
from lift_jax.models.vit.config import VisionConfig
from lift_jax.parallel.memory import Need
from lift_jax.settings.schema import Settings
from lift_jax.training.optimizer import arrays_per_leaf
from lift_jax.training.placement import chosen_precision
from lift_jax.tuners.rules import chosen_blocks

WITH_DIM = ("adaptformer", "adapter", "lora", "lora_mlp")  # tuners whose width is tuner.dim
WORKER_BYTES = 20 * 10**6  # what Python with NumPy and Pillow takes at least


def needed_memory(
    settings: Settings, names: Sequence[str], backbone: BackboneConfig, devices: int
) -> list[Need]:
    """Returns what data, activations and tuners need at least, before anything is allocated.

    Args:
        settings: of the run, with train.remat as it was chosen.
        names: of the image tower's tuners.
        backbone: its sizes.
        devices: number of devices, which share the batches.
    """
    s, vision = settings, backbone.vision
    item = chosen_precision(s.model).stream.itemsize
    if isinstance(vision, ResNetConfig):  # the first of the maps that the stem gives
        numbers, width = (vision.resolution // 2) ** 2 * vision.stem, vision.stem
        kept = 1 if names else 0
    else:
        width = vision.width
        numbers = vision.grid**2 * width
        kept = kept_blocks(settings, names, vision) * least_arrays(vision, s.train.remat)
    prompts = s.tuner.prompts * width if any(name.startswith("vpt") for name in names) else 0
    rows = s.train.batch // s.train.accum // devices
    crops = {"five": 5, "ten": 10}.get(s.test.crops, 1) if s.test.tte else 1
    views = s.test.views if s.test.tte and s.test.crops == "random" else 0
    seen = s.test.batch // devices * numbers * item
    copies = arrays_per_leaf(s.train)
    bottleneck = 8 * width * copies  # two float32 matrices
    text = backbone.text.width if backbone.text is not None else 0
    tuner = s.tuner.dim if any(name in WITH_DIM for name in names) else 0
    clip_adapter = s.clip_adapter.dim if "clip_adapter" in s.tuner.names else 0
    on_features = clip_adapter * 8 * backbone.embed
    text_tuner = s.text_tuner.dim if s.text_tuner.name in WITH_DIM else 0
    side = vision.resolution + (s.test.expand if s.test.tte and s.test.crops != "random" else 0)
    activations, weights = "activations", "weights"
    return [
        Need("data.workers", s.data.workers, s.data.workers * WORKER_BYTES, "worker processes"),
        Need("tuner.dim", tuner, tuner * bottleneck, weights, True),
        Need("tuner.prompts", s.tuner.prompts, max(1, rows) * prompts * item, activations, True),
        Need("text_tuner.dim", text_tuner, text_tuner * 8 * text * copies, weights, True),
        Need("clip_adapter.dim", clip_adapter, on_features * copies, weights, True),
        Need("test.expand", s.test.expand, 3 * side**2, "one enlarged image"),
        Need("train.batch", s.train.batch, rows * numbers * kept * item, activations, True),
        Need("test.batch", s.test.batch, seen * crops, activations, True),
        Need("test.views", s.test.views, seen * views, activations, True),
    ]


def kept_blocks(settings: Settings, names: Sequence[str], vision: VisionConfig) -> int:
    """Returns the number of blocks whose activations are kept: from the lowest tuned one on.

    The last block does not count, for it works for the CLS token alone.
    """
    if not names:
        return 0
    chosen = chosen_blocks(vision.layers, settings.tuner.partial, settings.tuner.layers)
    return max(1, vision.layers - min(chosen) - 1)


def least_arrays(vision: VisionConfig, remat: str) -> int:
    """Returns how many arrays of the size of its output a block keeps at least.

    Its input; on CPUs, whose compiler computes nothing again of its own accord, also q, k, v and
    the hidden layers of the MLP, unless `remat` is blocks, and without remat the input of the MLP.
    """
    if remat == "blocks" or not backward.is_lean():
        return 1
    hidden = vision.mlp * (2 if vision.gated else 1) // vision.width
    return 4 + hidden + (remat == "none")
