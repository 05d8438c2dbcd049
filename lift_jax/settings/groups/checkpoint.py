"""The settings of checkpoints: when they are saved, and which are kept."""

from dataclasses import dataclass

from lift_jax.settings.setting import setting


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings:
    """When checkpoints are saved, and which are kept."""

    every_steps: int = setting(500, "Number of steps between two checkpoints.", low=1, high=10**12)
    every_minutes: float = setting(
        10.0,
        "Approximate number of minutes between two checkpoints. 0: count only steps.",
        low=0,
        high=10**9,
    )
    keep: int = setting(2, "Number of newest checkpoints to keep.", low=1, high=10**9)
    best: bool = setting(
        False,
        "Validate after each epoch, also keep the checkpoint with the best mean accuracy over the "
        "classes, and test that one.",
    )
