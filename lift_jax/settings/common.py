"""The settings that all processes of a run must have in common."""

import json
from collections.abc import Mapping
from typing import Any

# Settings that may differ between processes: paths, because each machine may keep its files
# elsewhere (their contents are compared), and the number of CPUs that read images.
MAY_DIFFER = (
    "data.root", "data.train_list", "data.test_list", "data.val_list", "data.class_names",
    "data.prepared", "data.workers", "head.descriptors", "model.backbone", "model.tuned",
)  # fmt: skip


def common_settings(written: Mapping[str, Any]) -> dict[str, str]:
    """Returns the values of a config as JSON, by dotted key, without those that may differ."""
    return {k: json.dumps(v) for k, v in flatten(written).items() if k not in MAY_DIFFER}


def flatten(written: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the values of nested dicts by dotted key."""
    flat: dict[str, Any] = {}
    for key, value in written.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
