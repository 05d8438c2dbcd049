"""The methods: the settings in which LIFT, LIFT+ and LT-Soups differ.

Where LIFT and LIFT+ differ (section 5.1 of both papers) LIFT+ is the default, so `lift_plus`
repeats the defaults of the schema. LT-Soups (NeurIPS 2025) builds on LIFT.
"""

from typing import Any

METHODS: dict[str, dict[str, Any]] = {
    "lift_plus": {
        "label": "LIFT+",
        "train": {
            "epochs": 5, "lr": 0.02, "augment": "mda", "interpolation": "bicubic", "flip": False,
        },
        "test": {"interpolation": "bicubic"},
        "tuner": {
            "init": "kaiming_uniform", "parts": "attn+mlp", "prompts": 0, "place": "start",
            "mask": "each", "budget": "joint", "stem": False,
        },
        "head": {"shots": 100, "random": "uniform"},
    },
    "lift": {
        "label": "LIFT",
        "train": {
            "epochs": 10, "lr": 0.01, "augment": "rrc", "interpolation": "bilinear", "flip": True,
        },
        "test": {"interpolation": "bilinear"},
        "tuner": {
            "init": "kaiming_normal", "parts": "attn+mlp+ln", "prompts": 10, "place": "end",
            "mask": "joint", "budget": "each", "stem": True,
        },
        "head": {"shots": 0, "random": "kaiming_normal"},
    },
}  # fmt: skip
METHODS["lt_soups"] = METHODS["lift"] | {
    "label": "LT-Soups",
    "train": METHODS["lift"]["train"] | {
        "optimizer": "adamw", "lr": 3e-5, "weight_decay": 0.01, "schedule": "step", "warmup": 20,
        "lr_end": 0.1, "ema": 0.99,
    },
    "tuner": METHODS["lift"]["tuner"] | {"name": "full"},
    "soups": {"models": 2},
}  # fmt: skip
LIFT, LIFT_PLUS, LT_SOUPS = (
    METHODS[method]["label"] for method in ("lift", "lift_plus", "lt_soups")
)
EXPAND_OF_PATCH_14 = 21  # LIFT's test.expand for patches of 14 pixels, a multiple of 7
