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
