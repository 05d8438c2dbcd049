"""Tests of parsing: types, ranges, missing and unknown keys, resolved values."""

import dataclasses
import json

import pytest

from configs import base, demo
from lift_jax.errors import UserError
from lift_jax.settings import Settings, parse
from lift_jax.settings.groups.head import HeadSettings
from lift_jax.settings.groups.soups import SoupsSettings
from lift_jax.settings.groups.tuner import TextTunerSettings, TunerSettings
from lift_jax.settings.parse import as_begun, differences, to_dict
from lift_jax.settings.schema import GROUPS, all_entries


def changed(**changes) -> dict:
    """Returns the default config as a dict, with values changed: train__lr=0.1."""
    config = to_dict(base.get_config())
    for key, value in changes.items():
        group, _, name = key.rpartition("__")
        (config[group] if group else config)[name] = value
    return config


def test_settings_are_the_config_with_types():
    config = demo.get_config("method=lift,tuner=lora")
    settings = parse(config)
    assert settings.written == json.loads(config.to_json())
    assert set(settings.written) == set(config.keys())
    for key, entry in all_entries().items():
        group, _, name = key.rpartition(".")
        value = getattr(getattr(settings, group) if group else settings, name)
        assert type(value) is entry.type, key
        if key != "head.kind":
            assert value == (config[group] if group else config)[name], key


def test_settings_cannot_be_changed():
    settings = parse(base.get_config())
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.train.lr = 0.5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train__lr": "fast"}, "train.lr is 'fast'; expected a number"),
        ({"train__epochs": 2.5}, "train.epochs is 2.5; expected a whole number"),
        ({"train__epochs": True}, "train.epochs is True; expected a whole number"),
        ({"train__flip": 1}, "train.flip is 1; expected true or false"),
        ({"data__root": 3}, "data.root is 3; expected text"),
        ({"data__imbalance": 0.5}, "data.imbalance is 0.5; it must be at least 1"),
        ({"data__val_share": 1.0}, r"data.val_share is 1.0; it must be in \[0, 1\)"),
        ({"train__min_area": 0.0}, r"train.min_area is 0.0; it must be in \(0, 1\]"),
        ({"train__weight_decay": float("inf")}, "train.weight_decay is inf"),
        ({"head__scale": -1.0}, "head.scale is -1.0; it must be positive"),
        ({"data__decode": "fats"}, "data.decode 'fats'. Did you mean 'fast'"),
        ({"train__epoch": 3}, "setting 'train.epoch'. Did you mean 'train.epochs'"),
        ({"trian": 3}, "setting 'trian'"),
        ({"train": 3}, "train is 3; expected a group"),
        ({"text_tuner__budget": "each"}, "setting 'text_tuner.budget'"),
    ],
)
def test_wrong_values_are_told_by_their_key(changes, words):
    with pytest.raises(UserError, match=words):
        parse(changed(**changes))


@pytest.mark.parametrize("key", ["seed", "train.lr", "text_tuner.dim"])
def test_a_missing_setting_is_told(key):
    config = to_dict(base.get_config())
    group, _, name = key.rpartition(".")
    del (config[group] if group else config)[name]
    with pytest.raises(UserError, match=f"lacks the setting '{key}'"):
        parse(config)


def test_a_setting_that_came_later_means_what_runs_did_before():
    new, old, kept = changed(), changed(), changed(data__clean_names=False)
    del old["data"]["clean_names"]
    assert parse(new).data.clean_names and not parse(old).data.clean_names
    assert differences(old, new) == [] != differences(kept, new)
    began_old, began_new = as_begun(parse(new), old), as_begun(parse(old), new)
    assert began_old.written == old and not began_old.data.clean_names
    assert began_new.written == new and began_new.data.clean_names
    assert as_begun(parse(kept), kept).written == kept


def test_a_config_from_before_all_that_came_later_goes_on():
    """Of the group soups nothing was there."""
    new, old = changed(), changed()
    for key, entry in all_entries().items():
        group, _, name = key.partition(".")
        if entry.about.before is not None:
            del old[group][name]
    old = {key: value for key, value in old.items() if value != {}}
    assert "soups" not in old and new["soups"]
    assert parse(old).soups == SoupsSettings() and differences(old, new) == []
    asked = differences(old, changed(soups__models=2, train__ema=0.9))
    assert asked == ["soups.models: 'absent' -> 2", "train.ema: 'absent' -> 0.9"]
    rest = {key: value for key, value in old.items() if key != "test"}  # tests are free
    began = as_begun(parse(new), old).written
    assert {key: value for key, value in began.items() if key != "test"} == rest


def test_a_whole_number_is_a_number():
    assert parse(changed(train__lr=1)).train.lr == 1.0


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, "cosine"),
        ({"head__kind": "linear"}, "linear"),
        ({"tuner__name": "coop"}, "text"),
        ({"tuner__name": "lora + proj"}, "text"),
        ({"text_tuner__name": "lora"}, "text"),
    ],
)
def test_the_kind_of_head_is_resolved_once(changes, kind):
    config = changed(**changes)
    settings = parse(config)
    assert settings.head.kind == kind
    assert settings.written["head"]["kind"] == config["head"]["kind"]


def test_other_values_are_resolved_once():
    ldam = parse(changed(loss__name="ldam", head__scale=30.0))
    assert ldam.loss.options == {"max_margin": 0.5, "scale": 30.0}
    assert parse(changed(loss__name="ldam", loss__scale=7.0)).loss.options["scale"] == 7.0
    assert parse(changed()).loss.options == {"tau": 1.0}
    assert parse(changed(loss__name="ce")).loss.options == {}
    lift = parse(demo.get_config("method=lift"))
    assert lift.text_tuner.init == lift.tuner.init == "kaiming_normal"


def test_names_and_layers_of_tuners():
    assert TunerSettings(name="none").names == ()
    assert TunerSettings(name="lora+ ssf").names == ("lora", "ssf")
    assert TunerSettings(parts="mlp+ln").layer_names == ("fc1", "fc2", "ln1", "ln2")
    assert (TunerSettings.group, TextTunerSettings.group) == ("tuner", "text_tuner")


def test_defaults_alone_are_valid_settings():
    assert parse(changed()).head == dataclasses.replace(HeadSettings(), kind="cosine")
    assert set(GROUPS) | {"label", "seed", "written"} == {
        field.name for field in dataclasses.fields(Settings)
    }
