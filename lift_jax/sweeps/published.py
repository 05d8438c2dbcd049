"""Published accuracies of LIFT, and the runs that they may be compared with."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ml_collections import ConfigDict

from lift_jax.evaluation.metrics import GROUPS
from lift_jax.settings.parse import parse, same
from lift_jax.settings.schema import Settings
from lift_jax.sweeps.changes import Origin, of_method


@dataclass(frozen=True)
class Figures:
    """Published top-1 accuracies in percent of one run and one way of testing.

    Attributes:
        source: where they are published.
        values: percent by group: overall, and many, medium and few where they are published.
    """

    source: str
    values: Mapping[str, float]


def figures(source: str, overall: float, *shots: float) -> Figures:
    """Returns published accuracies; `shots` are many, medium and few."""
    groups = dict(zip(GROUPS, shots, strict=True)) if shots else {}
    return Figures(source, {"overall": overall} | groups)


SOUPS = "without TTE, re-run by the authors of LT-Soups"
WITHOUT = "without TTE, second-hand: quoted in the tables of RetFormer, CVPR 2026"
WITH = "with TTE, second-hand: quoted in the tables of RetFormer, CVPR 2026"
MIRRORS = "leaderboard mirrors, which do not say whether with TTE"
# LIFT, by config file, imbalance and backbone. `test` is without TTE; `test_tte` is with it, or
# from a source that does not say. "vit_b16_in21k" of the authors is IN-21k fine-tuned on IN-1k. No
# published accuracy of LIFT+ was found.
PUBLISHED: dict[tuple[str, int, str], dict[str, Figures]] = {
    ("imagenet_lt", 1, "clip_vit_b16"): {
        "test": figures(SOUPS, 77.0), "test_tte": figures(WITH, 78.3, 81.3, 77.4, 73.4),
    },
    ("imagenet_lt", 1, "clip_vit_l14"): {"test_tte": figures(MIRRORS, 82.9)},
    ("places_lt", 1, "clip_vit_b16"): {
        "test": figures(WITHOUT, 51.5, 51.3, 52.2, 50.5), "test_tte": figures(WITH, 52.2),
    },
    ("places_lt", 1, "clip_vit_l14"): {"test_tte": figures(MIRRORS, 53.7)},
    ("inat", 1, "clip_vit_b16"): {"test": figures(SOUPS, 79.1)},
    ("cifar100", 100, "clip_vit_b16"): {
        "test": figures(SOUPS, 81.3), "test_tte": figures(MIRRORS, 81.7),
    },
    ("cifar100", 50, "clip_vit_b16"): {"test_tte": figures(MIRRORS, 83.1)},
    ("cifar100", 10, "clip_vit_b16"): {"test_tte": figures(MIRRORS, 84.9)},
    ("cifar100", 100, "vit_b16_in21k_ft_in1k"): {"test_tte": figures(MIRRORS, 89.1)},
    ("cifar100", 50, "vit_b16_in21k_ft_in1k"): {"test_tte": figures(MIRRORS, 90.2)},
    ("cifar100", 10, "vit_b16_in21k_ft_in1k"): {"test_tte": figures(MIRRORS, 91.3)},
}  # fmt: skip
# LT-Soups (NeurIPS 2025) without TTE on CLIP ViT-B/16, by config file and imbalance. Its authors
# choose each model by a validation split, so no run of `method=lt_soups` is exactly one of theirs.
LT_SOUPS = {
    ("imagenet_lt", 1): 77.4, ("places_lt", 1): 51.7, ("inat", 1): 78.2, ("cifar100", 100): 83.5,
}  # fmt: skip
FORK = "Published for LIFT, clip_vit_b16: 79.4 (the log of a fork of the authors' code, 20 epochs)."
# Settings that say where and how fast a run is, not what is trained and tested.
APART = (
    "seed", "checkpoint", "mesh", "model.precision", "model.residual", "train.accum",
    "test.batch", "test.views", "test.adjust", "test.split",
)  # fmt: skip


def published(c: ConfigDict, origin: Origin) -> dict[str, Mapping[str, float]]:
    """Returns the published accuracies of exactly this config in percent, by result and group.

    Returns {} if none are published. A config of the user's own has none, whatever its file is
    called: its `origin.name` is "".
    """
    known = PUBLISHED.get((origin.name, c.data.imbalance, c.model.backbone), {})
    if not known or c.data.val_share or c.data.level != "species":  # other images, other classes
        return {}
    asked, lift = parse(c), parse(of_method("lift", c, origin))
    if not same(resolved(asked), resolved(lift), APART):
        return {}
    return {result: found.values for result, found in known.items()}


def resolved(settings: Settings) -> dict[str, Any]:
    """Returns the settings as written, with the kind of head resolved."""
    written = dict(settings.written)
    return written | {"head": {**written["head"], "kind": settings.head.kind}}


def references(c: ConfigDict, origin: Origin) -> list[str]:
    """Returns notes of what is published for the data of a config, with any backbone."""
    if c.data.name == "fake":
        return []
    notes = [
        f"Published for LIFT, {backbone}: {written(found.values)} ({found.source})."
        for (where, imbalance, backbone), results in PUBLISHED.items()
        if where == origin.name and imbalance == c.data.imbalance
        for found in results.values()
    ]
    if origin.name == "inat":
        notes.append(FORK)
    if soups := LT_SOUPS.get((origin.name, c.data.imbalance)):
        notes.append(f"Published for LT-Soups (NeurIPS 2025), clip_vit_b16: {soups} (without TTE).")
    return notes


def written(values: Mapping[str, float]) -> str:
    """Returns accuracies as text: 78.3, or 78.3; many 81.3, medium 77.4, few 73.4."""
    groups = ", ".join(f"{key} {value}" for key, value in values.items() if key != "overall")
    return "; ".join(filter(None, (str(values["overall"]), groups)))
