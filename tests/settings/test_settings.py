"""Tests of the config's argument, the methods' presets and the rules."""

import importlib

import pytest

from configs import base, demo, inat
from lift_jax.errors import UserError
from lift_jax.settings.argument import parse_argument
from lift_jax.settings.methods import METHODS
from lift_jax.settings.parse import differences, parse
from lift_jax.settings.rules import check_shots
from lift_jax.settings.schema import all_entries
from lift_jax.settings.values import check_value

CONFIGS = ("base", "demo", "folder", "cifar100", "imagenet_lt", "places_lt", "inat")


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("argument", [None, "", "debug", "method=lift", "backbone=clip_vit_l14"])
def test_every_config_is_valid(name, argument):
    parse(importlib.import_module(f"configs.{name}").get_config(argument))


@pytest.mark.parametrize("name", CONFIGS[1:])
def test_every_docstring_has_its_command(name):
    text = importlib.import_module(f"configs.{name}").__doc__
    assert f"--config=configs/{name}.py" in text and "--workdir" in text


def test_presets_are_those_of_the_papers():
    plus, lift = base.get_config(), base.get_config("method=lift")
    assert (plus.train.epochs, plus.train.lr, plus.train.augment) == (5, 0.02, "mda")
    assert (lift.train.epochs, lift.train.lr, lift.train.augment) == (10, 0.01, "rrc")
    assert (plus.train.interpolation, lift.test.interpolation) == ("bicubic", "bilinear")
    assert (plus.train.flip, lift.train.flip) == (False, True)
    for c in (plus, lift):
        assert (c.train.batch, c.train.momentum, c.train.weight_decay) == (128, 0.9, 5e-4)
        assert (c.head.kind, c.head.scale, c.loss.name, c.loss.tau) == ("auto", 25.0, "la", 1.0)
    assert (inat.get_config().train.epochs, inat.get_config("method=lift").train.epochs) == (15, 20)
    assert plus.test.expand == 24
    assert base.get_config("method=lift,backbone=clip_vit_l14").test.expand == 21


def test_the_argument_wins_over_the_debug_patch():
    config = demo.get_config("debug,backbone=demo,tuner=full")
    assert (config.data.name, config.model.backbone, config.tuner.name) == ("fake", "demo", "full")
    assert demo.get_config("debug=false").data.name == "digits"


@pytest.mark.parametrize(("argument", "words"), [
    ("debgu", "debug"), ("metod=lift", "method"), ("method=lifft", "lift"), ("method", "no value"),
    ("debug=5", "debug='5'"), ("tuner=full,tuner=none", "twice"),
])  # fmt: skip
def test_wrong_arguments(argument, words):
    with pytest.raises(UserError, match=words):
        parse_argument(argument)


@pytest.mark.parametrize(("key", "value", "words"), [
    ("train.batch", 0, "at least 1"), ("train.lr", 0.0, "positive"),
    ("train.lr", float("nan"), "positive"), ("train.accum", 3, "not a multiple"),
    ("train.momentum", 1.0, "momentum"), ("train.weight_decay", -1.0, "weight_decay"),
    ("train.min_area", 0.0, "min_area"), ("head.prompt", "a photo", "{}"),
    ("model.precision", "float61", "float32"), ("head.init", "txet", "text"),
    ("checkpoint.keep", 0, "at least 1"), ("mesh.model", -1, "at least 0"),
])  # fmt: skip
def test_values_out_of_range(key, value, words):
    config = base.get_config()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=words):
        parse(config)


@pytest.mark.parametrize("changes", [
    {"head.init": "text"}, {"head.init": "none"}, {"tuner.name": "coop"},
], ids=str)  # fmt: skip
def test_shots_belong_to_a_start_from_images(changes):
    config = base.get_config()
    config.update_from_flattened_dict(changes | {"head.shots": 10})
    with pytest.raises(UserError, match="head.shots is 10, but the head starts from"):
        parse(config)
    config.update_from_flattened_dict({"tuner.name": "none", "head.init": "class_mean"})
    parse(config)


def test_shots_without_effect_are_told_where_auto_is_text():
    config = base.get_config()
    config.head.shots = 10
    head = parse(config).head  # the backbone shows if there are texts
    check_shots(head, "class_mean")
    with pytest.raises(UserError, match="starts from 'text' \\(by head.init=auto\\)"):
        check_shots(head, "text")


def test_tau_belongs_to_la():
    config = base.get_config()
    config.loss.name, config.loss.tau = "ce", 2.0
    with pytest.raises(UserError, match="tau"):
        parse(config)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tuner.ratio": 0.1}, "tuner.ratio is 0.1, but tuner.name is 'adaptformer'.*'aft'"),
        ({"tuner.name": "lora+ssf", "tuner.seed": 3}, "tuner.seed is 3, but tuner.name is 'lora"),
        ({"coop.tokens": 8}, "coop.tokens is 8.*belongs to 'coop'"),
        ({"tuner.name": "proj", "clip_adapter.dim": 8}, "clip_adapter.dim is 8.*'clip_adapter'"),
        ({"text_tuner.partial": 2}, "text_tuner.partial is 2, but text_tuner.name is 'none'"),
        ({"text_tuner.parts": "ln"}, "text_tuner.parts is 'ln', but text_tuner.name is 'none'"),
        ({"tuner.partial": 2, "tuner.layers": "0"}, "tuner.partial is 2 and tuner.layers '0'"),
        ({"test.views": 5}, "test.views is 5, but test.crops is 'five'"),
    ],
)
def test_an_option_of_what_is_not_chosen_is_an_error(changes, words):
    config = base.get_config()
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=words):
        parse(config)


@pytest.mark.parametrize(
    "changes",
    [
        {"tuner.name": "lora+aft", "tuner.ratio": 0.1, "tuner.seed": 3},
        {"tuner.name": "coop", "coop.tokens": 8, "coop.place": "front", "text_tuner.name": "none"},
        {"text_tuner.name": "lora", "text_tuner.dim": 2, "text_tuner.layers": "0"},
        {"test.crops": "random", "test.views": 5},
    ],
)
def test_options_of_what_is_chosen(changes):
    config = base.get_config()
    config.update_from_flattened_dict(changes)
    parse(config)


def test_defaults_are_those_of_lift_plus():
    for group, values in METHODS["lift_plus"].items():
        for key, value in values.items() if isinstance(values, dict) else ():
            assert all_entries()[f"{group}.{key}"].default == value
    assert METHODS["lift"].keys() == METHODS["lift_plus"].keys()
    for group, values in METHODS["lift"].items():
        if isinstance(values, dict):
            assert values.keys() == METHODS["lift_plus"][group].keys()


def test_every_setting_is_described_once():
    assert len(all_entries()) == 108
    for entry in all_entries().values():
        assert entry.about.meaning and entry.about.meaning[-1] == ".", entry.key
        assert check_value(entry, entry.default) == entry.default, entry.key
    set_by_method = {
        "label" if group == "label" else f"{group}.{key}"
        for group, values in METHODS["lift"].items()
        for key in (values if isinstance(values, dict) else ("",))
    }
    assert {key for key, e in all_entries().items() if e.about.by_method} == set_by_method


def test_a_mistyped_key_is_an_error():
    with pytest.raises(AttributeError, match="epochs"):
        base.start(None).train.epoch = 3


def test_differences_are_listed_by_key():
    saved = {"a": {"b": 1, "c": 2}, "d": 3}
    assert differences(saved, {"a": {"b": 1, "c": 5}, "e": 3}) == [
        "a.c: 2 -> 5", "d: 3 -> 'absent'", "e: 'absent' -> 3",
    ]  # fmt: skip
