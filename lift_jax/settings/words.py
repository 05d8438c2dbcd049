"""How a run was trained, in words for a reader: from its config as it is kept in the run folder."""

from collections.abc import Mapping
from typing import Any

from lift_jax.settings.methods import LT_SOUPS
from lift_jax.settings.schema import all_entries

# Tuners that make a method of their own, whatever the setting label.
METHODS = {
    "none": "classifier only", "full": "full fine-tuning", "coop": "CoOp",
    "clip_adapter": "CLIP-Adapter", "proj": "projections only",
}  # fmt: skip
DRAWS = {
    "natural": "natural: each image once an epoch",
    "balanced": "balanced: each class equally often; the loss counts these draws",
    "sqrt": "sqrt: in proportion to the square root of a class's images; the loss counts the draws",
}
OPTIMIZERS = {"sgd": "SGD, momentum {}", "adamw": "AdamW"}


def method(config: Mapping[str, Any], tuned: bool = True) -> str:
    """Returns the method of a run, as tables and figures call its results.

    Sampling is named where it is not that of the papers: it changes what a classifier knows of rare
    classes. `tuned` is False for a run that tuned nothing but its classifier.
    """
    label, tuner = config["label"], config["tuner"]["name"] if tuned else "none"
    texts, sampling = _value(config, "text_tuner.name"), _value(config, "train.sampling")
    name: str = METHODS.get(tuner) or label
    if tuner == "none" and texts not in (None, "none"):
        name = f"{texts} of texts"
    if label.startswith(LT_SOUPS):
        name = label
    elif _value(config, "soups.models"):
        name = f"{LT_SOUPS} of {name}"
    return name if sampling == "natural" else f"{name} ({sampling} sampling)"


def training(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns names and values of what a reader asks of a training, in words.

    `config` may be of an older version: what it lacks is told as it was then.
    """

    def value(key: str) -> Any:
        return _value(config, key)

    optimizer = OPTIMIZERS.get(value("train.optimizer"), str(value("train.optimizer")))
    each = "with a new value each step" if value("train.schedule") == "step" else "of the epoch"
    warmup = value("train.warmup")
    first = f"a warm-up of {warmup} steps and " if warmup else ""
    share = value("train.lr_end")
    end = f"{share} of that rate" if share else "0"
    ema, sampling = value("train.ema"), value("train.sampling")
    rows = [
        ("Length", f"{value('train.epochs')} epochs in batches of {value('train.batch')}"),
        (
            "Optimizer",
            f"{optimizer.format(value('train.momentum'))}, weight decay "
            f"{value('train.weight_decay')}",
        ),
        (
            "Learning rate",
            f"{value('train.lr')}, {first}a cosine {each}, which ends at {end}",
        ),
        ("Sampling", DRAWS.get(sampling, str(sampling))),
        (
            "Average of the weights",
            f"decay {ema} (EMA): the results are those of the averaged weights" if ema else "none",
        ),
    ]
    if models := value("soups.models"):
        rows.append(
            (
                "LT-Soups",
                f"{models} models in each stage, factors {value('soups.factors')}, joined with "
                f"weight {value('soups.join')}; then the classifier alone",
            )
        )
    return rows


def unlike_the_papers(config: Mapping[str, Any]) -> list[str]:
    """Returns the choices of training that LIFT and LIFT+ do not make, a word or two for each."""
    sampling, optimizer, ema, models = (
        _value(config, key)
        for key in ("train.sampling", "train.optimizer", "train.ema", "soups.models")
    )
    return [
        *(["LT-Soups"] if models else []),
        *([f"{sampling} sampling"] if sampling != "natural" else []),
        *([str(optimizer)] if optimizer != "sgd" else []),
        *([f"EMA {ema}"] if ema else []),
    ]


def _value(config: Mapping[str, Any], key: str) -> Any:
    """Returns the value of a setting, or what runs did before there was one."""
    group, _, name = key.partition(".")
    return config.get(group, {}).get(name, all_entries()[key].about.before)
