"""The changes that a cell of a sweep makes to a config: of tuner, loss and method."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ml_collections import ConfigDict

from lift_jax.settings.common import flatten
from lift_jax.settings.groups.tuner import split_names
from lift_jax.settings.methods import LIFT, LT_SOUPS, METHODS
from lift_jax.settings.schema import entries
from lift_jax.weights.names.hub import NAMES


@dataclass(frozen=True)
class Origin:
    """The config file that a config comes from.

    Attributes:
        name: name of the shipped config; "" for a file of the user's own.
        get_config: the function of that file.
    """

    name: str
    get_config: Callable[[str | None], ConfigDict]


def with_tuner(name: str, c: ConfigDict, origin: Origin) -> dict[str, Any]:
    """Returns the changes for a tuner, with the settings that the papers give it alone."""
    lift, imagenet = c.label == LIFT, origin.name == "imagenet_lt"
    own = {
        "none": {"train.lr": 0.02 if lift else 0.03},
        "full": {"train.lr": (0.001 if imagenet else 0.002) * (0.5 if lift else 1)},
        "aft": {"tuner.ratio": 0.01 if lift and imagenet else 0.005},
        "coop": {
            "train.epochs": 50, "train.batch": 32, "train.lr": 0.002, "train.augment": "rrc",
            "train.flip": of_method("lift", c, origin).train.flip,
        },
    }  # fmt: skip
    changes = own.get(name, {})
    if c.train.optimizer != "sgd":  # the rates are those of SGD
        changes = {key: value for key, value in changes.items() if key != "train.lr"}
    return named(name) | changes


def alone(name: str, c: ConfigDict, origin: Origin) -> dict[str, Any]:
    """Returns the changes for a tuner in a plain run, of LIFT+ for a config of LT-Soups."""
    if c.label != LT_SOUPS:
        return with_tuner(name, c, origin)
    plus = of_method("lift_plus", c, origin)
    return with_method("lift_plus", c, origin) | with_tuner(name, plus, origin)


def named(tuner: str) -> dict[str, Any]:
    """Returns the changes for a tuner, without the options of another one."""
    options = [e for group in ("tuner", "coop", "clip_adapter") for e in entries(group)]
    return {"tuner.name": tuner} | {
        entry.key: entry.default
        for entry in options
        if entry.about.only_for and entry.about.only_for not in split_names(tuner)
    }


def is_resnet(backbone: str) -> bool:
    """Returns True if the name of a backbone is that of a ResNet."""
    return "resnet" in backbone or backbone.startswith("clip_rn")


def with_loss(name: str) -> dict[str, Any]:
    """Returns the changes for a loss, without the options of another one."""
    others = {
        entry.key: entry.default
        for entry in entries("loss")
        if entry.about.only_for and entry.about.only_for != name
    }
    return {"loss.name": name} | others


def with_method(method: str, c: ConfigDict, origin: Origin) -> dict[str, Any]:
    """Returns what the config file changes for a method and the command line has not changed."""
    known = {name: flatten(of_method(name, c, origin).to_dict()) for name in METHODS}
    now, wanted = flatten(c.to_dict()), known[method]
    own = next((k for k in known.values() if k["label"] == c.label), known["lift_plus"])
    others = known["lift"], known["lift_plus"], own
    return {
        key: value
        for key, value in wanted.items()
        if any(other[key] != value for other in others) and now[key] == own[key]
    }


def of_method(method: str, c: ConfigDict, origin: Origin) -> ConfigDict:
    """Returns the config of the same file for a method, with the backbone and the data of `c`."""
    argument = f"method={method}" + (",debug" if c.data.name == "fake" else "")
    if c.model.backbone in NAMES:
        argument += f",backbone={c.model.backbone}"
    made = origin.get_config(argument)
    made.data = c.data
    return made
