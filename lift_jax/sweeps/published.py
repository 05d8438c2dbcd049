"""Published accuracies of LIFT, and the runs that they may be compared with."""

from typing import Any

from ml_collections import ConfigDict

from lift_jax.settings.parse import parse, same
from lift_jax.settings.schema import Settings
from lift_jax.sweeps.cells import Origin, of_method

# Top-1 of LIFT in percent, by config file, imbalance and backbone. `test` is without TTE, re-run by
# the authors of LT-Soups; `test_tte` is of leaderboard mirrors, which do not say whether with TTE.
# "vit_b16_in21k" of the authors is IN-21k fine-tuned on IN-1k. No accuracy of LIFT+ is public in
# what could be read.
PUBLISHED = {
    ("imagenet_lt", 1, "clip_vit_b16"): {"test": 77.0, "test_tte": 78.3},
    ("imagenet_lt", 1, "clip_vit_l14"): {"test_tte": 82.9},
    ("places_lt", 1, "clip_vit_b16"): {"test": 51.5, "test_tte": 52.2},
    ("places_lt", 1, "clip_vit_l14"): {"test_tte": 53.7},
    ("inat", 1, "clip_vit_b16"): {"test": 79.1},
    ("cifar100", 100, "clip_vit_b16"): {"test": 81.3, "test_tte": 81.7},
    ("cifar100", 50, "clip_vit_b16"): {"test_tte": 83.1},
    ("cifar100", 10, "clip_vit_b16"): {"test_tte": 84.9},
    ("cifar100", 100, "vit_b16_in21k_ft_in1k"): {"test_tte": 89.1},
    ("cifar100", 50, "vit_b16_in21k_ft_in1k"): {"test_tte": 90.2},
    ("cifar100", 10, "vit_b16_in21k_ft_in1k"): {"test_tte": 91.3},
}
SOURCES = {
    "test": "without TTE, re-run by the authors of LT-Soups",
    "test_tte": "leaderboard mirrors, which do not say whether with TTE",
}
FORK = "Published for LIFT, clip_vit_b16: 79.4 (the log of a fork of the authors' code, 20 epochs)."
# Settings that say where and how fast a run is, not what is trained and tested.
APART = (
    "seed", "checkpoint", "mesh", "model.precision", "train.accum", "test.batch", "test.views",
    "test.adjust",
)  # fmt: skip


def published(c: ConfigDict, origin: Origin) -> dict[str, float]:
    """Returns the published accuracies of exactly this config in percent, by result; else {}.

    A config of the user's own has none, whatever its file is called: its `origin.name` is "".
    """
    known = PUBLISHED.get((origin.name, c.data.imbalance, c.model.backbone), {})
    if not known or c.data.val_share or c.data.level != "species":  # other images, other classes
        return {}
    asked, lift = parse(c), parse(of_method("lift", c, origin))
    return known if same(resolved(asked), resolved(lift), APART) else {}


def resolved(settings: Settings) -> dict[str, Any]:
    """Returns the settings as written, with the kind of head resolved."""
    written = dict(settings.written)
    return written | {"head": {**written["head"], "kind": settings.head.kind}}


def references(c: ConfigDict, origin: Origin) -> list[str]:
    """Returns notes of what is published for LIFT on the data of a config, with any backbone."""
    if c.data.name == "fake":
        return []
    notes = [
        f"Published for LIFT, {backbone}: {value} ({SOURCES[result]})."
        for (where, imbalance, backbone), values in PUBLISHED.items()
        if where == origin.name and imbalance == c.data.imbalance
        for result, value in values.items()
    ]
    return [*notes, FORK] if origin.name == "inat" else notes
