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
        "Sampling of training images: natural (each image once an epoch), balanced (each class "
        "equally often) or sqrt (each class in proportion to the square root of its images). An "
        "epoch has as many draws as there are images, and the loss counts the draws.",
        choices=("natural", "balanced", "sqrt"),
        before="natural",
    )
    accum: int = setting(
        1,
        "Number of micro-batches in a step (gradient accumulation). More of them use less memory, "
        "with the same results.",
        low=1,
        high=10**7,
    )
    remat: str = setting(
        "auto",
        "Activations that the backward pass computes again to save memory: none, dots (all but "
        "the results of matrix products) or blocks (all). The results are the same. auto: dots on "
        "a GPU or TPU if the activations probably exceed its memory, otherwise none.",
        choices=("auto", "none", "dots", "blocks"),
        before="none",
    )
    lr: float = setting(
        0.02,
        "Learning rate at the start. It decays with a cosine (train.schedule, train.lr_end).",
        low=0,
        exclusive="low",
        by_method=True,
        high=1e30,
    )
    schedule: str = setting(
        "epoch",
        "When the learning rate changes: epoch (once an epoch, as in the papers) or step (in "
        "every step after train.warmup).",
        choices=("epoch", "step"),
        before="epoch",
    )
    warmup: int = setting(
        0,
        "Number of warm-up steps, in which the learning rate grows linearly from a millionth of "
        "train.lr to train.lr.",
        low=0,
        high=2**31 - 1,
        before=0,
    )
    lr_end: float = setting(
        0.0, "Share of train.lr at which the cosine ends.", low=0, high=1, before=0.0
    )
    optimizer: str = setting(
        "sgd",
        "sgd (as in the papers) or adamw (beta 0.9 and 0.999, epsilon 1e-8). AdamW needs a far "
        "smaller train.lr than SGD, such as 0.0003.",
        choices=("sgd", "adamw"),
        before="sgd",
    )
    momentum: float = setting(
        0.9, "Momentum of SGD.", low=0, high=1, exclusive="high", only_for="sgd"
    )
    weight_decay: float = setting(
        5e-4,
        "Weight decay of all tuned weights: added to the gradient with sgd, decoupled from it "
        "with adamw.",
        low=0,
        high=10**6,
    )
    ema: float = setting(
        0.0,
        "Decay of an exponential moving average of the tuned weights, such as 0.999. The averaged "
        "weights are validated, tested and exported. 0: no average.",
        low=0,
        high=1,
        exclusive="high",
        before=0.0,
    )
    augment: str = setting(
        "mda",
        "Augmentation: mda (LIFT+'s minimalist data augmentation), rrc (random resized crops) or "
        "none.",
        by_method=True,
    )
    interpolation: str = setting(
        "bicubic",
        "Interpolation when training images are resized: bicubic or bilinear.",
        by_method=True,
    )
    mda: str = setting(
        "convex",
        "For mda: how the smallest crop grows during training: convex, linear, concave, min or "
        "max.",
    )
    min_area: float = setting(
        0.08,
        "Share of the image's area that the smallest crop covers.",
        low=0,
        high=1,
        exclusive="low",
    )
    flip: bool = setting(False, "Mirror half of the training images.", by_method=True)
