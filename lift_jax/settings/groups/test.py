"""The settings of tests: batches, test-time ensembling and post-hoc adjustment."""

from dataclasses import dataclass

from lift_jax.settings.setting import setting


@dataclass(frozen=True, kw_only=True)
class TestSettings:
    """Tests: batches, test-time ensembling and post-hoc adjustment."""

    __test__ = False  # pytest collects classes whose names begin with Test

    batch: int = setting(
        128, "Batch size of tests, over all devices and processes.", low=1, high=10**7
    )
    interpolation: str = setting(
        "bicubic",
        "Interpolation when test images are resized: bicubic or bilinear.",
        by_method=True,
    )
    tte: bool = setting(
        True, "Also test with test-time ensembling: average the logits of several crops."
    )
    crops: str = setting(
        "five",
        "Crops of test-time ensembling: five; ten (five and their mirror images); random (random "
        "resized crops, half of them mirrored).",
        choices=("five", "ten", "random"),
    )
    expand: int = setting(
        24,
        "For five and ten crops: number of pixels by which the resized image is larger than a "
        "crop. The default, 24, is meant for 224 pixels or more, and is scaled down for lower "
        "resolutions.",
        low=0,
        high=16_384,
    )
    views: int = setting(10, "For random crops: number of crops.", low=1, high=10**5)
    split: str = setting(
        "test",
        "train or val: also test on the training or validation images, with one crop, and write "
        "metrics_train.json or metrics_val.json. With --mode=evaluate, a run that has been tested "
        "is tested on these images only.",
        choices=("test", "val", "train"),
        before="test",
    )
    adjust: bool = setting(
        False,
        "Also test with post-hoc logit adjustment: tau times the log prior of the training images "
        "is subtracted from the logits. tau is chosen on the validation split.",
    )
