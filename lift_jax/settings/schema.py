"""All settings: their groups by name, and single settings by dotted key.

Defaults are those of LIFT+; `methods` lists what LIFT does differently. Users write these settings
as an `ml_collections.ConfigDict`; `parse` checks one against this schema and returns `Settings`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from lift_jax.settings.groups.checkpoint import CheckpointSettings
from lift_jax.settings.groups.data import DataSettings
from lift_jax.settings.groups.head import HeadSettings
from lift_jax.settings.groups.loss import LossSettings
from lift_jax.settings.groups.mesh import MeshSettings
from lift_jax.settings.groups.model import ModelSettings
from lift_jax.settings.groups.soups import SoupsSettings
from lift_jax.settings.groups.test import TestSettings
from lift_jax.settings.groups.train import TrainSettings
from lift_jax.settings.groups.tuner import (
    ClipAdapterSettings,
    CoopSettings,
    TextTunerSettings,
    TunerSettings,
)
from lift_jax.settings.setting import Entry, setting

LARGEST_SEED = 2**63 - 1  # what JAX takes


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings of a run, checked and resolved by `parse`.

    `head.kind`, `loss.scale` and `text_tuner.init` are resolved; `written` holds the settings as
    the user wrote them, in the form of config.json.
    """

    label: str = setting("", "Name of the tuned model in tables.", by_method=True)
    seed: int = setting(
        0,
        "Seed of the classifier, the tuners, the order of images and their crops.",
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
