"""The making of a config by its file: defaults, the argument after the colon, the debug patch.

def get_config(argument=None):
    c = settings.start(argument)
    c.train.epochs = 15
    return settings.finish(c, argument)
"""

from dataclasses import dataclass

from ml_collections import ConfigDict

from lift_jax.errors import UserError, unknown
from lift_jax.settings.methods import EXPAND_OF_PATCH_14, METHODS
from lift_jax.settings.schema import GROUPS, entries

KEYS = ("backbone", "debug", "method", "tuner")


@dataclass(frozen=True)
class Argument:
    """The text after the colon of `--config=demo:...`, parsed; empty strings if not given."""

    debug: bool = False
    method: str = "lift_plus"
    backbone: str = ""
    tuner: str = ""


def parse_argument(argument: str | None) -> Argument:
    """Parses `debug`, `method=lift`, `backbone=NAME_OR_PATH`, `tuner=NAME`, separated by commas.

    Raises UserError for an unknown or repeated key, a missing value, or an unknown method.
    """
    values: dict[str, str] = {}
    for part in filter(None, (argument or "").split(",")):
        key, _, value = (s.strip() for s in part.partition("="))
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


def start(argument: str | None = None) -> ConfigDict:
    """Returns the defaults of the argument's method, for a config file to change and `finish`.

    The config is locked: a mistyped key is an error. Raises UserError as `parse_argument`.
    """
    config = ConfigDict({entry.key: entry.default for entry in entries()})
    for group in GROUPS:
        config[group] = ConfigDict(
            {entry.key.partition(".")[2]: entry.default for entry in entries(group)}
        )
    config.update(METHODS[parse_argument(argument).method])
    return config.lock()


def finish(config: ConfigDict, argument: str | None = None) -> ConfigDict:
    """Applies debug patch, backbone and tuner of the argument; the last call of a `get_config`.

    Raises UserError as `parse_argument`.
    """
    parsed = parse_argument(argument)
    if parsed.debug:
        use_debug_values(config)
    if parsed.backbone:
        config.model.backbone = parsed.backbone
    if parsed.tuner:
        config.tuner.name = parsed.tuner
    if parsed.method != "lift_plus" and parsed.backbone.startswith("clip_vit_l14"):
        config.test.expand = EXPAND_OF_PATCH_14
    return config


def use_debug_values(config: ConfigDict) -> None:
    """Turns any config into a run of two steps on made-up images and random weights, offline."""
    config.data.name = "fake"
    config.data.imbalance = 1.0
    config.data.val_share = 0.0
    config.data.expected = ""
    config.data.workers = 0
    config.model.backbone = "debug"
    config.model.resolution = 0
    config.train.epochs = 1
    config.train.batch = 32
    config.train.accum = 1
    config.test.batch = 16
    config.test.expand = 4
    config.checkpoint.every_steps = 1
    config.train.warmup = 0
    if config.soups.models:
        config.soups.factors = "0,1"
        config.soups.least_steps = 2
