"""The settings of training: length, batches, optimizer and augmentation."""

from dataclasses import dataclass

from lift_jax.settings.setting import setting


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
