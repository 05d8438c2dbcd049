"""The config's argument, the methods' presets, the debug patch, and every cross-field rule."""

from dataclasses import dataclass

from ml_collections import ConfigDict

from lift_jax.errors import UserError, unknown

# What LIFT and LIFT+ differ in (SPEC of the papers: LIFT section 5.1, LIFT+ section 5.1).
METHODS = {
    "lift_plus": {
        "label": "LIFT+",
        "train": {
            "epochs": 5, "lr": 0.02, "augment": "mda", "interpolation": "bicubic", "flip": False,
        },
        "test": {"interpolation": "bicubic"},
        "tuner": {"init": "kaiming_uniform"},
    },
    "lift": {
        "label": "LIFT",
        "train": {
            "epochs": 10, "lr": 0.01, "augment": "rrc", "interpolation": "bilinear", "flip": True,
        },
        "test": {"interpolation": "bilinear"},
        "tuner": {"init": "kaiming_normal"},
    },
}  # fmt: skip
KEYS = ("backbone", "debug", "method", "tuner")


@dataclass(frozen=True)
class Argument:
    """What stands behind the colon of `--config=configs/x.py:...`; empty strings if not given."""

    debug: bool = False
    method: str = "lift_plus"
    backbone: str = ""
    tuner: str = ""


def parse_argument(argument: str | None) -> Argument:
    """Parses `debug`, `method=lift`, `backbone=NAME_OR_PATH`, `tuner=NAME`, comma separated.

    Raises UserError for an unknown or repeated key, a missing value, or an unknown method.
    """
    values: dict[str, str] = {}
    for part in filter(None, (argument or "").split(",")):
        key, equals, value = (s.strip() for s in part.partition("="))
        if key not in KEYS:
            raise unknown("key in the config's argument", key, KEYS)
        if key in values:
            raise UserError(f"The config's argument gives {key!r} twice: {argument!r}.")
        if key == "debug":
            if value not in ("", "true", "false"):
                raise UserError(f"The config's argument has debug={value!r}; write debug alone.")
        elif not value:
            raise UserError(f"The config's argument has no value for {key!r}; write {key}=VALUE.")
        values[key] = value
    if values.get("method", "lift") not in METHODS:
        raise unknown("method in the config's argument", values["method"], METHODS)
    debug = "debug" in values and values.pop("debug") != "false"
    return Argument(debug=debug, **values)


def finish(config: ConfigDict, argument: str | None) -> ConfigDict:
    """Applies debug patch, backbone and tuner of the argument; the last call of a `get_config`."""
    parsed = parse_argument(argument)
    if parsed.debug:
        debug(config)
    if parsed.backbone:
        config.model.backbone = parsed.backbone
    if parsed.tuner:
        config.tuner.name = parsed.tuner
    if parsed.method == "lift" and parsed.backbone.startswith("clip_vit_l14"):
        config.test.expand = 21  # LIFT's, a multiple of 7 for patches of 14 pixels
    return config


def debug(config: ConfigDict) -> None:
    """Makes any config a run of two steps on made-up images and random weights, offline."""
    config.data.name = "fake"
    config.data.imbalance = 1.0
    config.data.workers = 0
    config.model.backbone = "debug"
    config.train.epochs = 1
    config.train.batch = 32
    config.train.accum = 1
    config.test.batch = 16
    config.test.expand = 4
    config.checkpoint.every_steps = 1


def validate(config: ConfigDict) -> None:
    """Raises UserError for values that are out of range or do not go together."""
    c = config
    at_least = {
        "seed": (c.seed, 0),
        "data.workers": (c.data.workers, 0),
        "tuner.dim": (c.tuner.dim, 0),
        "tuner.partial": (c.tuner.partial, 0),
        "train.epochs": (c.train.epochs, 1),
        "train.batch": (c.train.batch, 1),
        "train.accum": (c.train.accum, 1),
        "test.batch": (c.test.batch, 1),
        "test.expand": (c.test.expand, 0),
        "checkpoint.every_steps": (c.checkpoint.every_steps, 1),
        "checkpoint.keep": (c.checkpoint.keep, 1),
        "mesh.data": (c.mesh.data, 0),
        "mesh.model": (c.mesh.model, 1),
    }
    for key, (value, least) in at_least.items():
        if value < least:
            raise UserError(f"{key} is {value}; it must be at least {least}.")
    for key, value in {"train.lr": c.train.lr, "head.scale": c.head.scale}.items():
        if not 0 < value < float("inf"):
            raise UserError(f"{key} is {value}; it must be positive.")
    if not 0 <= c.train.weight_decay < float("inf"):
        raise UserError(f"train.weight_decay is {c.train.weight_decay}; it must not be negative.")
    if not 0 <= c.train.momentum < 1:
        raise UserError(f"train.momentum is {c.train.momentum}; it must be in [0, 1).")
    if not 0 < c.train.min_area <= 1:
        raise UserError(f"train.min_area is {c.train.min_area}; it must be in (0, 1].")
    if c.train.batch % c.train.accum:
        raise UserError(
            f"train.batch {c.train.batch} is not a multiple of train.accum {c.train.accum}."
        )
    if "{}" not in c.head.prompt:  # zero-shot needs it, whatever the head starts from
        raise UserError(
            f"head.prompt is {c.head.prompt!r}; it needs {{}} where the class name goes, as in "
            "'a photo of a {}.'."
        )
    if c.loss.name != "la" and c.loss.tau != 1.0:
        raise UserError(
            f"loss.tau is {c.loss.tau}, but loss.name is {c.loss.name!r}: tau belongs to 'la'."
        )
    choices = {
        "model.precision": (c.model.precision, ("auto", "float32", "bfloat16")),
        "head.init": (c.head.init, ("text", "none")),
    }
    for key, (value, known) in choices.items():
        if value not in known:
            raise unknown(key, value, known)


def differences(saved: dict, current: dict, prefix: str = "") -> list[str]:
    """Lists "key: saved -> current" for each leaf that differs between two config dicts."""
    lines = []
    for key in sorted(saved.keys() | current.keys()):
        a, b = saved.get(key, "absent"), current.get(key, "absent")
        if isinstance(a, dict) and isinstance(b, dict):
            lines += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            lines.append(f"{prefix}{key}: {a!r} -> {b!r}")
    return lines
