"""Every setting once: its type, default, range and meaning.

A group of settings is a frozen dataclass. `setting` gives a field its default and describes it.
Defaults are those of LIFT+; `methods` lists what LIFT does differently. Users write these settings
as an `ml_collections.ConfigDict`; `parse` checks one against this schema and returns `Settings`.
"""

import math
import re
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

from lift_jax.errors import UserError, shown, unknown

BLOCK_PARTS = {"attn": ("q", "k", "v", "out"), "mlp": ("fc1", "fc2"), "ln": ("ln1", "ln2")}
INF = math.inf
LONGEST_NAME = 255  # bytes of a file's name, on all usual file systems
LARGEST_SEED = 2**63 - 1  # what JAX takes
LARGEST_DRAW = 2**32 - 1  # what NumPy's older generator takes, which draws aft's entries


@dataclass(frozen=True)
class About:
    """Describes one setting.

    Attributes:
        meaning: a sentence for people.
        low, high: the range of a number, ends included. Every number has a largest value, so that
            no sum, product or allocation grows beyond what the work can do with; it is far
            above what any use needs.
        exclusive: which ends are excluded: "low", "high" or "".
        choices: the values of a text, empty where any text is taken.
        longest: the largest number of characters of a text.
        path: True for a text that is, or may be, a path or an address.
        by_method: True if LIFT and LIFT+ differ in it.
        only_for: the value of the group's `name` (or one of several tuners), or of train.optimizer,
            that has this option.
        before: for a setting that came later, the value that says what runs did before. A config
            of theirs lacks the setting, and goes on to mean this value.
        settable: False for a field that is not a setting of its group.
    """

    meaning: str = ""
    low: float = -INF
    high: float = INF
    exclusive: str = ""
    choices: tuple[str, ...] = ()
    longest: int = 1000
    path: bool = False
    by_method: bool = False
    only_for: str = ""
    before: Any = None
    settable: bool = True

    @property
    def range(self) -> str:
        """Returns the range as it is written in messages, "" where there is none."""
        if self.high == INF:
            return ""
        if self.high > 1:
            least = "positive" if "low" in self.exclusive else f"at least {self.low:g}"
            return f"{least} and at most {self.high:,}"
        left = "(" if "low" in self.exclusive else "["
        right = ")" if "high" in self.exclusive else "]"
        return f"in {left}{self.low:g}, {self.high:g}{right}"

    def contains(self, value: float) -> bool:
        """Returns True if a number lies in the range; NaN never does."""
        above = value > self.low if "low" in self.exclusive else value >= self.low
        below = value < self.high if "high" in self.exclusive else value <= self.high
        return above and below


def three_numbers(key: str, text: str) -> tuple[float, ...]:
    """Returns the three numbers that a text of the form 0.485,0.456,0.406 holds; () if it is empty.

    Raises UserError, which names the key, for any other text.
    """
    try:
        numbers = tuple(float(part) for part in text.split(",") if text)
    except ValueError:
        numbers = (math.nan,)
    if len(numbers) not in (0, 3) or not all(map(math.isfinite, numbers)):
        raise UserError(
            f"{key} is {shown(text)}; expected three numbers of red, green and blue with commas "
            "between them, like 0.485,0.456,0.406."
        )
    return numbers


def fixed_scale(key: str, text: str) -> float | None:
    """Returns the number that a text holds, None for "learned".

    Raises UserError, which names the key, for any other text, and unless 0 < number <= 10**6.
    """
    if text == "learned":
        return None
    with suppress(ValueError):
        if 0 < float(text) <= 10**6:
            return float(text)
    raise UserError(f"{key} is {shown(text)}; expected learned, or a positive number like 0.1.")


def setting(default: Any, meaning: str, **about: Any) -> Any:
    """Returns a dataclass field with a default and its description (see `About`)."""
    return field(default=default, metadata={"about": About(meaning, **about)})


def not_settable(default: Any) -> Any:
    """Returns a dataclass field that no config holds."""
    return field(default=default, metadata={"about": About(settable=False)})


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Which images, what is held out or cut, and how they are read."""

    name: str = setting(
        "folder",
        "Data set: folder, list, table, inaturalist, tfds, cifar10, cifar100, digits or fake.",
    )
    root: str = setting(
        "",
        "Folder that holds the images. For cifar10 and cifar100, empty downloads them.",
        longest=4096,
        path=True,
    )
    train_list: str = setting(
        "",
        "Training images. For list: a text file of lines `path label`. For table: a .csv, .tsv or "
        ".jsonl file with the columns path, label or class, and optionally split. For inaturalist: "
        "the JSON of the competition. Paths are relative to data.root.",
        longest=4096,
        path=True,
    )
    test_list: str = setting(
        "", "Test images, in the form of data.train_list.", longest=4096, path=True
    )
    val_list: str = setting(
        "",
        "Validation images, in the form of data.train_list. Empty: no such file.",
        longest=4096,
        path=True,
    )
    class_names: str = setting(
        "",
        "Text file with one class name a line, in the order of the labels, or after a key: a label "
        "or the name of a folder. For inaturalist: "
        "categories.json, where the training JSON has numbers instead of names (2018).",
        longest=4096,
        path=True,
    )
    clean_names: bool = setting(
        True,
        "Leave numbers, WordNet ids and other keys beside class names out of the prompts, and read "
        "keys in data.class_names as no part of the names. Names that are numbers or ids alone, or "
        "that the data lacks, give no prompts. False: every name goes into its prompt as it is.",
        before=False,
    )
    level: str = setting(
        "species",
        "For inaturalist: kingdom, phylum, class, order, family, genus or species.",
    )
    tfds: str = setting(
        "",
        "For tfds: name, name:version or name/config:version of a data set that is prepared as "
        "array_record.",
    )
    test_share: float = setting(
        0.2,
        "For a folder or table without a test split: share of each class that is held out.",
        low=0,
        high=1,
    )
    val_share: float = setting(
        0.0,
        "Share of each class's training images that is held out for validation.",
        low=0,
        high=1,
        exclusive="high",
    )
    imbalance: float = setting(
        1.0,
        "Size of the largest class divided by the smallest, for cutting a long tail from any data "
        "set. 1 keeps all images.",
        low=1,
        high=10**9,
    )
    max_per_class: int = setting(
        0,
        "Largest number of training images of a class. The seed draws which, after validation "
        "images are held out; losses and groups of classes follow those that are left. 0: all.",
        low=0,
        high=10**9,
        before=0,
    )
    expected: str = setting(
        "",
        "Training/validation/test images/classes of the papers. The run says if the data differ.",
    )
    features_gb: float = setting(
        8.0,
        "Gigabytes of activations to keep in the cache folder. Without augmentation, activations "
        "that enter the lowest tuned block are computed once and read instead of images. 0: none.",
        low=0,
        high=10**6,
    )
    decode: str = setting(
        "exact",
        "exact, or fast: decode JPEGs at reduced size and precision.",
        choices=("exact", "fast"),
    )
    prepared: str = setting(
        "",
        "Folder that `lift-jax data --prepare` wrote. Empty: the user's cache. none: not used.",
        longest=4096,
        path=True,
    )
    exif: bool = setting(False, "Turn images by their EXIF orientation. The papers do not.")
    on_bad_image: str = setting(
        "error",
        "error, or skip: list images that cannot be read and continue without them.",
        choices=("error", "skip"),
    )
    workers: int = setting(
        -1,
        "Worker processes that decode images. 0: threads. -1: one process for four CPUs if there "
        "are at least eight CPUs and 20,000 images to read, otherwise threads.",
        low=-1,
        high=4096,
    )


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The pre-trained backbone."""

    backbone: str = setting(
        "clip_vit_b16",
        "Backbone: a name, a folder, a file, or owner/repository[@revision].",
        longest=4096,
        path=True,
    )
    resolution: int = setting(
        0,
        "Image size in pixels, a multiple of the patch size. 0: as pre-trained.",
        low=0,
        high=16_384,
    )
    mean: str = setting(
        "",
        "Mean of the images' red, green and blue values, like 0.485,0.456,0.406, which is taken "
        "from them. Empty: as the weights say, or as the run says where they do not.",
        before="",
    )
    std: str = setting(
        "",
        "Standard deviation of the images' red, green and blue values, like 0.229,0.224,0.225, by "
        "which they are divided. Empty: as the weights say.",
        before="",
    )
    tuned: str = setting(
        "",
        "File of tuned weights to start from: a checkpoint of the authors' code, or what "
        "`lift-jax export` wrote.",
        longest=4096,
        path=True,
    )
    precision: str = setting(
        "auto",
        "Type of the frozen weights and of matrix products. auto: float32 on CPUs, float16 on "
        "GPUs, bfloat16 on TPUs.",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    residual: str = setting(
        "float32",
        "Type of the residual stream, of embeddings, biases and norms: float32, or the same as "
        "model.precision, as in version 0.1.0, where auto was bfloat16 on GPUs.",
        choices=("float32", "same"),
        before="same",
    )

    @property
    def loading(self) -> dict[str, Any]:
        """Returns the arguments of `load_backbone` that the settings give."""
        numbers = {
            key: three_numbers(f"model.{key}", getattr(self, key)) for key in ("mean", "std")
        }
        given = {"resolution": self.resolution, **numbers}
        return {key: value for key, value in given.items() if value}


@dataclass(frozen=True, kw_only=True)
class TunerSettings:
    """The tuner of the image tower."""

    group: ClassVar[str] = "tuner"

    name: str = setting(
        "adaptformer",
        "adaptformer, adapter, lora, lora_mlp, ssf, vpt_shallow, vpt_deep, aft (random entries), "
        "bitfit (biases), ln, full, bn (of ResNets); several as lora+ssf; none: the classifier "
        "alone. With head.kind=text also coop (learned words), clip_adapter, proj (both "
        "projections).",
    )
    dim: int = setting(
        0,
        "Bottleneck width, or LoRA's rank. 0: the size that gives the tuner about as many "
        "parameters as the head.",
        low=0,
        high=10**6,
    )
    partial: int = setting(0, "Number of last blocks to tune. 0: all.", low=0, high=10_000)
    layers: str = setting(
        "", "Blocks to tune, counted from 0, instead of tuner.partial: 0,2 or 3:7 (3 to 6)."
    )
    init: str = setting(
        "kaiming_uniform",
        "Initialisation of bottlenecks.",
        choices=("kaiming_uniform", "kaiming_normal"),
        by_method=True,
    )
    scale: str = setting(
        "learned",
        "For adaptformer: learned (a number for each block, which starts at 1), or one number "
        "that stays, like 0.1.",
        only_for="adaptformer",
        before="learned",
    )
    parts: str = setting(
        "attn+mlp",
        "For ssf and aft: parts of a block that are tuned: attn, mlp, ln (not for aft), with + "
        "between them.",
        by_method=True,
    )
    ratio: float = setting(
        0.0,
        "For aft: share of the entries that is tuned. 0: as many as the head has.",
        low=0,
        high=1,
        only_for="aft",
    )
    seed: int = setting(
        0, "For aft: seed of the choice of entries.", low=0, only_for="aft", high=LARGEST_DRAW
    )
    mask: str = setting(
        "each",
        "For aft: each chooses entries of every kernel and bias separately (LIFT+); joint draws "
        "one order over each layer's kernel and bias, continued through all blocks (LIFT).",
        choices=("each", "joint"),
        by_method=True,
    )
    budget: str = setting(
        "joint",
        "For lora and lora_mlp with tuner.dim=0: the two layers together (joint, LIFT+) or each "
        "of them (each, LIFT) have about as many parameters as the head.",
        choices=("joint", "each"),
        by_method=True,
    )
    prompts: int = setting(
        0,
        "For vpt: number of prompts in each block. 0: about as many parameters as the head has.",
        low=0,
        by_method=True,
        high=10**5,
    )
    place: str = setting(
        "start",
        "For vpt: position of the prompts: start (after CLS, LIFT+) or end (LIFT).",
        choices=("start", "end"),
        by_method=True,
    )
    stem: bool = setting(
        False,
        "For bitfit and full of all blocks of a ResNet: also tune its stem and pooling, as LIFT "
        "does; LIFT+ tunes the blocks alone.",
        by_method=True,
        before=True,
    )

    @property
    def names(self) -> tuple[str, ...]:
        """Returns the tuners by name, () for none."""
        parts = (part.strip() for part in self.name.split("+"))
        return () if self.name == "none" else tuple(parts)

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
    dim: int = setting(4, "Bottleneck width, or LoRA's rank. 0: automatic.", low=0, high=10**6)
    partial: int = setting(0, "Number of last blocks to tune. 0: all.", low=0, high=10_000)
    layers: str = setting("", "Blocks to tune, as tuner.layers.")
    scale: str = setting("learned", "Scale of AdaptFormer, as tuner.scale.", before="learned")
    parts: str = setting("attn+mlp", "Parts of a block that ssf and aft tune, as tuner.parts.")
    ratio: float = setting(0.0, "For aft: share of the entries that is tuned.", low=0, high=1)
    seed: int = setting(0, "For aft: seed of the choice of entries.", low=0, high=LARGEST_DRAW)
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
        "random, or photo: the words of 'a photo of a {}.', whatever the next two settings say.",
        choices=("random", "photo"),
        only_for="coop",
    )
    tokens: int = setting(4, "Number of learned words.", low=1, only_for="coop", high=10_000)
    place: str = setting(
        "end",
        "Position of the class name among the learned words.",
        choices=("front", "middle", "end"),
        only_for="coop",
    )


@dataclass(frozen=True, kw_only=True)
class ClipAdapterSettings:
    """Bottlenecks on the projected features (tuner.name=clip_adapter)."""

    dim: int = setting(4, "Width of both bottlenecks.", low=1, only_for="clip_adapter", high=10**6)


@dataclass(frozen=True, kw_only=True)
class HeadSettings:
    """The classifier, how it starts, and the prompts of the classes."""

    kind: str = setting(
        "auto",
        "cosine, linear, l2norm or layernorm; text: the texts of the classes, as in CLIP, instead "
        "of a classifier; auto: text if a tuner changes the texts, otherwise cosine.",
    )
    scale: float = setting(
        25.0, "Scale of the cosine head's logits.", low=0, exclusive="low", high=10**6
    )
    init: str = setting(
        "auto",
        "Start of the head. text: from the class names; class_mean, linear_probe: from training "
        "images; none: random; auto: text if the backbone has a text tower and the classes have "
        "names, otherwise class_mean.",
        choices=("auto", "text", "class_mean", "linear_probe", "none"),
    )
    shots: int = setting(
        100,
        "Largest number of images of each class for class_mean and linear_probe. 0: all.",
        low=0,
        by_method=True,
        high=10**9,
    )
    random: str = setting(
        "uniform",
        "Random start of a linear head with head.init=none: uniform (rows of unit length) or "
        "kaiming_normal.",
        choices=("uniform", "kaiming_normal"),
        by_method=True,
    )
    prompt: str = setting(
        "a photo of a {}.",
        "Prompt of a class: a template with {} for the name, or classname (the name alone), "
        "ensemble (CLIP's 80 templates), descriptor.",
        longest=4096,
    )
    descriptors: str = setting(
        "",
        "For head.prompt=descriptor: a JSON file, {class name: [phrase, ...]}.",
        longest=4096,
        path=True,
    )


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """The loss and its options, each of one loss."""

    name: str = setting("la", "la, bs, ce, focal, ldam, cb, grw or lade.")
    tau: float = setting(1.0, "Strength of the logit adjustment.", only_for="la", low=0, high=10**6)
    gamma: float = setting(
        2.0, "How much less rows count that are already right.", only_for="focal", low=0, high=10**6
    )
    max_margin: float = setting(
        0.5, "Margin of the smallest class.", only_for="ldam", low=0, high=10**6
    )
    scale: float = setting(
        0.0, "Scale of the margins. 0: head.scale.", only_for="ldam", low=0, high=10**6
    )
    beta: float = setting(
        0.9999,
        "0 weighs all classes alike, values near 1 by 1 / images.",
        only_for="cb",
        low=0,
        high=1,
        exclusive="high",
    )
    exponent: float = setting(1.0, "Exponent of 1 / images.", only_for="grw", low=0, high=10**6)
    weight: float = setting(0.1, "Weight of the second term.", only_for="lade", low=0, high=10**6)

    @property
    def options(self) -> dict[str, float]:
        """Returns the options of the chosen loss, for `losses.make`."""
        return {
            one.name: getattr(self, one.name)
            for one in fields(self)
            if one.metadata["about"].only_for == self.name
        }


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Training: length, batches, optimizer and augmentation."""

    epochs: int = setting(5, "Number of epochs.", low=1, by_method=True, high=10**5)
    batch: int = setting(128, "Batch size over all devices and processes.", low=1, high=10**7)
    sampling: str = setting(
        "natural",
        "Draws of training images: natural (each image once an epoch), balanced (each class as "
        "often) or sqrt (each class in proportion to the square root of its images). An epoch has "
        "as many draws as images, and the loss sees the classes as they are drawn.",
        choices=("natural", "balanced", "sqrt"),
        before="natural",
    )
    accum: int = setting(
        1, "Micro-batches a step, which use less memory and change nothing else.", low=1, high=10**7
    )
    remat: str = setting(
        "auto",
        "What blocks compute again in the backward pass instead of keeping it: none, dots (all "
        "but matrix products) or blocks (everything). Saves memory, gives the same numbers. auto: "
        "dots on a GPU or TPU whose memory the activations are likely to exceed, else none.",
        choices=("auto", "none", "dots", "blocks"),
        before="none",
    )
    lr: float = setting(
        0.02,
        "Learning rate, which falls by a cosine (train.schedule, train.lr_end).",
        low=0,
        exclusive="low",
        by_method=True,
        high=1e30,
    )
    schedule: str = setting(
        "epoch",
        "Cosine of the learning rate: epoch (the papers': one value an epoch) or step (a new value "
        "each step, over the steps after train.warmup).",
        choices=("epoch", "step"),
        before="epoch",
    )
    warmup: int = setting(
        0,
        "Number of steps in which the learning rate grows on a line, from a millionth in the first "
        "step to all of it.",
        low=0,
        high=2**31 - 1,
        before=0,
    )
    lr_end: float = setting(
        0.0, "Share of train.lr at which the cosine ends.", low=0, high=1, before=0.0
    )
    optimizer: str = setting(
        "sgd",
        "sgd (the papers') or adamw (beta 0.9 and 0.999, epsilon 1e-8). AdamW needs a far smaller "
        "train.lr than SGD, such as 0.0003.",
        choices=("sgd", "adamw"),
        before="sgd",
    )
    momentum: float = setting(
        0.9, "Momentum of SGD.", low=0, high=1, exclusive="high", only_for="sgd"
    )
    weight_decay: float = setting(
        5e-4,
        "Weight decay of all tuned weights: added to the gradient by sgd, decoupled from it in "
        "adamw.",
        low=0,
        high=10**6,
    )
    ema: float = setting(
        0.0,
        "Decay of a moving average of the tuned weights, such as 0.999. The averaged weights are "
        "validated, tested and exported. 0: no average.",
        low=0,
        high=1,
        exclusive="high",
        before=0.0,
    )
    augment: str = setting(
        "mda",
        "mda (minimalist augmentation), rrc (random resized crops) or none.",
        by_method=True,
    )
    interpolation: str = setting("bicubic", "bicubic or bilinear.", by_method=True)
    mda: str = setting(
        "convex", "How the smallest crop of mda grows: convex, linear, concave, min or max."
    )
    min_area: float = setting(
        0.08,
        "Share of the image that the smallest crop covers.",
        low=0,
        high=1,
        exclusive="low",
    )
    flip: bool = setting(False, "Mirror half of the images.", by_method=True)


@dataclass(frozen=True, kw_only=True)
class SoupsSettings:
    """LT-Soups: models tuned on subsets of the images, joined stage by stage (method=lt_soups)."""

    models: int = setting(
        0,
        "Number of models of each stage, tuned from the same start on the same images in other "
        "orders and crops. Their mean is the stage's model. At last the classifier alone is tuned "
        "on all images. 0: a plain run without stages.",
        low=0,
        high=1000,
        before=0,
    )
    factors: str = setting(
        "0,1,2,3,4,5,6",
        "Subset of each stage: factor f keeps of each class at most 2^f times the images of the "
        "smallest class; -1 keeps all. Factor 0 is tuned by plain cross-entropy.",
        before="0,1,2,3,4,5,6",
    )
    join: float = setting(
        0.7,
        "Weight w of a stage's model s when it is joined to those before it, m: (1 - w) m + w s.",
        low=0,
        high=1,
        exclusive="low",
        before=0.7,
    )
    least_steps: int = setting(
        100,
        "Least number of steps of each model; a stage of fewer goes on for more epochs.",
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


@dataclass(frozen=True, kw_only=True)
class TestSettings:
    """Tests: batches, test-time ensembling and post-hoc adjustment."""

    __test__ = False  # pytest collects classes whose names begin with Test

    batch: int = setting(
        128, "Batch size of tests, over all devices and processes.", low=1, high=10**7
    )
    interpolation: str = setting("bicubic", "bicubic or bilinear.", by_method=True)
    tte: bool = setting(True, "Test-time ensembling: average the logits of several crops as well.")
    crops: str = setting(
        "five",
        "Crops of the ensemble: five, ten (with those of the mirror image) or random (as for rrc, "
        "half of them mirrored).",
        choices=("five", "ten", "random"),
    )
    expand: int = setting(
        24,
        "For five and ten crops: pixels by which the image is larger than its crops. The default "
        "24 is meant for 224 pixels or more, and is scaled with the resolution below that.",
        low=0,
        high=16_384,
    )
    views: int = setting(10, "For random crops: their number.", low=1, high=10**5)
    split: str = setting(
        "test",
        "train or val: also test with one crop on the training or validation images, into "
        "metrics_train.json or metrics_val.json. With --mode=evaluate a run that is tested is "
        "tested on them alone.",
        choices=("test", "val", "train"),
        before="test",
    )
    adjust: bool = setting(
        False,
        "Also test with logits less tau log prior of the training images; tau is chosen on the "
        "validation split.",
    )


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings:
    """When checkpoints are saved, and which are kept."""

    every_steps: int = setting(500, "Steps between two checkpoints.", low=1, high=10**12)
    every_minutes: float = setting(
        10.0,
        "Minutes between two checkpoints, approximately. 0: by steps alone.",
        low=0,
        high=10**9,
    )
    keep: int = setting(2, "Number of newest checkpoints that are kept.", low=1, high=10**9)
    best: bool = setting(
        False,
        "Validate after each epoch, keep the checkpoint with the best mean accuracy over the "
        "classes as well, and test that one.",
    )


@dataclass(frozen=True, kw_only=True)
class MeshSettings:
    """The mesh of devices. Each group of `model` devices holds one copy of the weights."""

    strategy: str = setting(
        "replicate",
        "replicate, or fsdp: split frozen weights and large heads over the model axis.",
        choices=("replicate", "fsdp"),
    )
    data: int = setting(
        0, "Number of device groups. 0: all that mesh.model leaves.", low=0, high=10**6
    )
    model: int = setting(
        0, "Devices in a group. 0: one, or with fsdp the devices of a process.", low=0, high=10**6
    )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings of a run, checked and resolved by `parse`.

    `head.kind`, `loss.scale` and `text_tuner.init` are resolved; `written` holds the settings as
    the user wrote them, in the form of config.json.
    """

    label: str = setting("", "Name of the tuned model in tables.", by_method=True)
    seed: int = setting(
        0,
        "Seed of the head, the tuners, the order of images and their crops.",
        low=0,
        high=LARGEST_SEED,
    )
    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    tuner: TunerSettings = TunerSettings()
    text_tuner: TextTunerSettings = TextTunerSettings()
    coop: CoopSettings = CoopSettings()
    clip_adapter: ClipAdapterSettings = ClipAdapterSettings()
    head: HeadSettings = HeadSettings()
    loss: LossSettings = LossSettings()
    train: TrainSettings = TrainSettings()
    soups: SoupsSettings = SoupsSettings()
    test: TestSettings = TestSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    mesh: MeshSettings = MeshSettings()
    written: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


GROUPS: dict[str, type] = {
    one.name: type(one.default) for one in fields(Settings) if "about" not in one.metadata
    and one.name != "written"
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One setting of the schema, by its dotted key."""

    key: str
    type: type
    default: Any
    about: About


def entries(group: str = "") -> Iterator[Entry]:
    """Yields the settings of a group in order; "" stands for those without a group."""
    for one in fields(GROUPS[group] if group else Settings):
        about = one.metadata.get("about")
        if about is not None and about.settable:
            key = f"{group}.{one.name}" if group else one.name
            yield Entry(key, type(one.default), one.default, about)


def all_entries() -> dict[str, Entry]:
    """Returns every setting by its dotted key, in order."""
    return {entry.key: entry for group in ("", *GROUPS) for entry in entries(group)}


def check_value(entry: Entry, value: Any) -> Any:
    """Returns a value of the setting's type. Raises UserError for another type or out of range."""
    about = entry.about
    # a whole number that a float cannot hold lies outside every range
    if entry.type is float and type(value) is int and about.contains(value):
        value = float(value)
    if type(value) is not entry.type and not (entry.type is float and type(value) is int):
        raise UserError(
            f"{entry.key} is {shown(value)}; expected {TYPE_NAMES[entry.type]}, as in the default "
            f"{entry.default!r}."
        )
    if isinstance(value, str):
        return check_text(entry, value)
    if about.range and not about.contains(value):
        raise UserError(f"{entry.key} is {shown(value)}; it must be {about.range}.")
    return value + 0.0 if entry.type is float else value  # the sum turns -0.0 into 0.0


def check_text(entry: Entry, value: str) -> str:
    """Returns a text. Raises UserError if it is too long, or can be neither printed nor a path."""
    about, longest = entry.about, entry.about.longest
    if about.choices and value not in about.choices:
        raise unknown(entry.key, value, about.choices)
    if len(value) > longest:
        raise UserError(
            f"{entry.key} has {len(value):,} characters; expected at most {longest:,}. It begins "
            f"{value[:40]!r}."
        )
    if odd := [letter for letter in value if unicodedata.category(letter) in ("Cc", "Cs")]:
        raise UserError(
            f"{entry.key} is {shown(value)}; expected text in one line, found the character "
            f"{odd[0]!r}."
        )
    if not about.path or "://" in value:
        return value
    if any(len(name.encode()) > LONGEST_NAME for name in value.split("/")):
        raise UserError(
            f"{entry.key} is {shown(value)}; expected a path, whose names have at most "
            f"{LONGEST_NAME} bytes each."
        )
    if value.startswith("~"):
        try:
            Path(value).expanduser()
        except RuntimeError as error:
            raise UserError(f"{entry.key} is {shown(value)}: {error}") from error
    return value


TYPE_NAMES = {
    bool: "true or false", int: "a whole number", float: "a number", str: "text",
}  # fmt: skip
