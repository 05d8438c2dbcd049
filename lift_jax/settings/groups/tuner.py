"""The settings of the tuners: of the image tower, of the text tower, and of what texts give."""

from dataclasses import dataclass
from typing import ClassVar

from lift_jax.settings.setting import not_settable, setting
from lift_jax.settings.values import fixed_scale

BLOCK_PARTS = {"attn": ("q", "k", "v", "out"), "mlp": ("fc1", "fc2"), "ln": ("ln1", "ln2")}
LARGEST_DRAW = 2**32 - 1  # what NumPy's older generator takes, which draws aft's entries


def split_names(text: str) -> tuple[str, ...]:
    """Returns the names in "adaptformer" or "one+another", and () for "none"."""
    return () if text == "none" else tuple(name.strip() for name in text.split("+"))


@dataclass(frozen=True, kw_only=True)
class TunerSettings:
    """The tuner of the image tower."""

    group: ClassVar[str] = "tuner"

    name: str = setting(
        "adaptformer",
        "Tuner: adaptformer, adapter, lora, lora_mlp, ssf, vpt_shallow, vpt_deep, aft (random "
        "weights), bitfit (biases), ln (LayerNorms), full, or bn (BatchNorms of ResNets). "
        "lora+ssf combines several. none: only the classifier is tuned. With head.kind=text also "
        "coop (learned words), clip_adapter, proj (both projections).",
    )
    dim: int = setting(
        0,
        "Bottleneck width, or LoRA's rank. 0: chosen so that the tuner has about as many "
        "parameters as the classifier.",
        low=0,
        high=10**6,
    )
    partial: int = setting(0, "Number of last blocks to tune. 0: all.", low=0, high=10_000)
    layers: str = setting(
        "", "Blocks to tune, counted from 0, instead of tuner.partial: 0,2 or 3:7 (blocks 3 to 6)."
    )
    init: str = setting(
        "kaiming_uniform",
        "Random initialisation of bottlenecks.",
        choices=("kaiming_uniform", "kaiming_normal"),
        by_method=True,
    )
    scale: str = setting(
        "learned",
        "Scale of AdaptFormer: learned (one number for each block, which starts at 1), or a fixed "
        "number such as 0.1.",
        only_for="adaptformer",
        before="learned",
    )
    parts: str = setting(
        "attn+mlp",
        "For ssf and aft: parts of a block to tune, joined by +: attn, mlp, ln (not for aft).",
        by_method=True,
    )
    ratio: float = setting(
        0.0,
        "For aft: share of the weights to tune. 0: as many weights as the classifier has.",
        low=0,
        high=1,
        only_for="aft",
    )
    seed: int = setting(
        0, "For aft: seed that draws the weights.", low=0, only_for="aft", high=LARGEST_DRAW
    )
    mask: str = setting(
        "each",
        "For aft: how weights are drawn. each: from every kernel and bias separately (LIFT+). "
        "joint: from one random order over the kernel and bias of a layer, continued through all "
        "blocks (LIFT).",
        choices=("each", "joint"),
        by_method=True,
    )
    budget: str = setting(
        "joint",
        "For lora and lora_mlp with tuner.dim=0: what has about as many parameters as the "
        "classifier: both adapted layers together (joint, LIFT+) or each of them (each, LIFT).",
        choices=("joint", "each"),
        by_method=True,
    )
    prompts: int = setting(
        0,
        "For vpt: number of prompts in each block. 0: chosen so that they have about as many "
        "parameters as the classifier.",
        low=0,
        by_method=True,
        high=10**5,
    )
    place: str = setting(
        "start",
        "For vpt: position of the prompts: start (after the CLS token, LIFT+) or end (LIFT).",
        choices=("start", "end"),
        by_method=True,
    )
    stem: bool = setting(
        False,
        "For bitfit and full on all blocks of a ResNet: also tune its stem and pooling, as LIFT "
        "does. LIFT+ tunes only the blocks.",
        by_method=True,
        before=True,
    )

    @property
    def names(self) -> tuple[str, ...]:
        """Returns the tuners by name, () for none."""
        return split_names(self.name)

    @property
    def fixed_scale(self) -> float | None:
        """Returns the scale of AdaptFormer, None if it is learned."""
        return fixed_scale(f"{self.group}.scale", self.scale)

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Returns the layers of a block that `parts` stands for."""
        return tuple(name for part in self.parts.split("+") for name in BLOCK_PARTS[part])


@dataclass(frozen=True, kw_only=True)
class TextTunerSettings(TunerSettings):
    """The tuner of the text tower with head.kind=text. The fields mean the same as in `tuner`."""

    group: ClassVar[str] = "text_tuner"

    name: str = setting("none", "Tuner of the text tower, as tuner.name.")
    dim: int = setting(
        4, "Bottleneck width, or LoRA's rank. 0: automatic, as tuner.dim.", low=0, high=10**6
    )
    partial: int = setting(0, "Number of last blocks to tune. 0: all.", low=0, high=10_000)
    layers: str = setting("", "Blocks to tune, as tuner.layers.")
    scale: str = setting("learned", "Scale of AdaptFormer, as tuner.scale.", before="learned")
    parts: str = setting("attn+mlp", "For ssf and aft: parts of a block to tune, as tuner.parts.")
    ratio: float = setting(0.0, "For aft: share of the weights to tune.", low=0, high=1)
    seed: int = setting(0, "For aft: seed that draws the weights.", low=0, high=LARGEST_DRAW)
    prompts: int = setting(2, "For vpt: number of prompts in each block.", low=0, high=10**5)
    init: str = not_settable("kaiming_uniform")  # `parse` takes tuner.init
    mask: str = not_settable("each")
    budget: str = not_settable("joint")
    place: str = not_settable("start")
    stem: bool = not_settable(False)


@dataclass(frozen=True, kw_only=True)
class CoopSettings:
    """Learned words in the prompts of the classes (tuner.name=coop)."""

    init: str = setting(
        "random",
        "Start of the learned words: random, or photo (the words of 'a photo of a {}.'; then the "
        "next two settings have no effect).",
        choices=("random", "photo"),
        only_for="coop",
    )
    tokens: int = setting(4, "Number of learned words.", low=1, only_for="coop", high=10_000)
    place: str = setting(
        "end",
        "Position of the class name relative to the learned words.",
        choices=("front", "middle", "end"),
        only_for="coop",
    )


@dataclass(frozen=True, kw_only=True)
class ClipAdapterSettings:
    """Bottlenecks on the projected features (tuner.name=clip_adapter)."""

    dim: int = setting(4, "Width of both bottlenecks.", low=1, only_for="clip_adapter", high=10**6)
