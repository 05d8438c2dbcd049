"""Tests of a run's training in words, by which a report says how it was trained."""

import pytest

from configs import demo
from lift_jax.settings import words
from lift_jax.settings.parse import to_dict


def told(argument="", **changes):
    """Returns the words on a training of the demo with changed settings, by their names."""
    config = demo.get_config(argument)
    config.update_from_flattened_dict(changes)
    return dict(words.training(to_dict(config))), words.unlike_the_papers(to_dict(config))


def test_the_papers_training_has_nothing_to_tell():
    rows, short = told()
    assert short == []
    assert rows["Optimizer"] == "SGD, momentum 0.9, weight decay 0.0005"
    assert rows["Learning rate"] == "0.02, a cosine of the epoch, which ends at 0"
    assert rows["Sampling"].startswith("natural") and rows["Average of the weights"] == "none"
    assert "LT-Soups" not in rows


@pytest.mark.parametrize(("key", "value", "row", "long", "short"), [
    ("train.sampling", "balanced", "Sampling", "balanced: each class equally", "balanced sampling"),
    ("train.sampling", "sqrt", "Sampling", "sqrt: in proportion to the square", "sqrt sampling"),
    ("train.optimizer", "adamw", "Optimizer", "AdamW, weight decay 0.0005", "adamw"),
    ("train.ema", 0.99, "Average of the weights", "decay 0.99 (EMA): the results", "EMA 0.99"),
])  # fmt: skip
def test_each_choice_is_told_long_and_short(key, value, row, long, short):
    rows, found = told(**{key: value})
    assert rows[row].startswith(long) and found == [short]


def test_a_warm_up_and_lt_soups():
    rows, short = told("method=lt_soups", **{"soups.factors": "0,-1"})
    assert rows["Learning rate"] == (
        "3e-05, a warm-up of 20 steps and a cosine with a new value each step, which ends at 0.1 "
        "of that rate"
    )
    assert rows["LT-Soups"].startswith("2 models in each stage, factors 0,-1")
    assert short == ["LT-Soups", "adamw", "EMA 0.99"]


def test_a_run_of_an_older_version_is_told_as_it_was_then():
    config = to_dict(demo.get_config())
    for name in ("sampling", "schedule", "warmup", "lr_end", "optimizer", "ema"):
        del config["train"][name]
    del config["soups"]
    assert words.training(config) == words.training(to_dict(demo.get_config()))
    assert words.unlike_the_papers(config) == []
    del config["text_tuner"]
    assert words.method(config) == "LIFT+"


@pytest.mark.parametrize(("changes", "name"), [
    ({}, "LIFT+"),
    ({"label": "LIFT"}, "LIFT"),
    ({"tuner.name": "coop"}, "CoOp"),
    ({"tuner.name": "none"}, "classifier only"),
    ({"tuner.name": "none", "text_tuner.name": "lora"}, "lora of texts"),
    ({"tuner.name": "lora", "soups.models": 2}, "LT-Soups of LIFT+"),
    ({"tuner.name": "none", "soups.models": 2}, "LT-Soups of classifier only"),
    ({"label": "LT-Soups", "tuner.name": "full", "soups.models": 2}, "LT-Soups"),
    ({"train.sampling": "balanced"}, "LIFT+ (balanced sampling)"),
    ({"train.sampling": "sqrt", "tuner.name": "full"}, "full fine-tuning (sqrt sampling)"),
])  # fmt: skip
def test_results_are_called_by_the_method(changes, name):
    config = demo.get_config()
    config.update_from_flattened_dict(changes)
    assert words.method(to_dict(config)) == name


def test_a_run_without_tuned_weights_is_its_classifier():
    assert words.method(to_dict(demo.get_config()), tuned=False) == "classifier only"
