"""The settings of the mesh of devices."""

from dataclasses import dataclass

from lift_jax.settings.setting import setting


@dataclass(frozen=True, kw_only=True)
class MeshSettings:
    """The mesh of devices. Each group of `model` devices holds one copy of the weights."""

    strategy: str = setting(
        "replicate",
        "replicate: every device holds all frozen weights. fsdp: the devices of a group share "
        "frozen weights and large classifiers.",
        choices=("replicate", "fsdp"),
    )
    data: int = setting(
        0, "Number of device groups. 0: as many as the devices allow.", low=0, high=10**6
    )
    model: int = setting(
        0,
        "Number of devices in a group. 0: one, or with fsdp the devices of a process.",
        low=0,
        high=10**6,
    )
