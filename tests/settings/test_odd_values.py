"""Every setting with every odd value: refused in one line at once, or accepted by `parse`."""

import copy
import math
import time

import pytest
from rich.console import Console

from lift_jax import settings
from lift_jax.errors import UserError
from lift_jax.settings.config_file import override
from lift_jax.settings.parse import parse, to_dict
from lift_jax.settings.schema import all_entries
from lift_jax.training.classifier import check_names
from lift_jax.training.setup import build
from tests.support.odd_values import ODD_VALUES

CONFIG = to_dict(settings.load("demo", "debug"))


def with_value(key, value):
    """Returns the config with one setting changed, and others as it needs them."""
    config = copy.deepcopy(CONFIG)
    group, _, name = key.rpartition(".")
    (config[group] if group else config)[name] = value
    if key in ("tuner.seed", "tuner.ratio"):
        config["tuner"]["name"] = "aft"  # without it these options have no use
    return config


@pytest.mark.parametrize("key", all_entries())
def test_every_setting_takes_or_refuses_every_odd_value(key):
    for value in ODD_VALUES:
        started = time.monotonic()
        try:
            parsed = parse(with_value(key, value))
            check_names(parsed)
        except UserError as error:
            message = str(error)
            assert len(message) < 6000 and "\n" not in message and "\0" not in message
        else:
            group, _, name = key.rpartition(".")
            got = getattr(getattr(parsed, group) if group else parsed, name)
            assert not isinstance(got, float) or math.isfinite(got)
            assert str(got) != "-0.0"
        assert time.monotonic() - started < 1, (key, value)


def test_every_number_has_both_ends():
    for entry in all_entries().values():
        if entry.type in (int, float):
            assert math.isfinite(entry.about.low) and math.isfinite(entry.about.high), entry.key
            assert entry.about.contains(entry.default)


@pytest.mark.parametrize("group", ["tuner", "data", "mesh"])
@pytest.mark.parametrize("value", [None, 5, "a", [], [["a", 1]], 1j], ids=str)
def test_a_group_of_another_kind(group, value):
    with pytest.raises(UserError, match=group):
        parse(CONFIG | {group: value})


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("train.batch", "9" * 5000), ("train.lr", "nan"), ("seed", "1" + "0" * 20),
        ("train.lr", "1e400"), ("tuner.dim", "1e3"), ("a" * 5000, "1"), ("label", "a\0b"),
    ],
)  # fmt: skip
def test_odd_texts_on_the_command_line(key, text):
    config = settings.load("demo", "debug")
    with pytest.raises(UserError) as caught:
        override(config, [(key, text)])
        parse(config)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


SAMPLED = (
    math.nan,
    -0.0,
    5e-324,
    0.5,
    0,
    1,
    3,
    10**5,
    10**9,
    2**32,
    2**63 - 1,
    1e6,
    True,
    "",
    "a",
    "+",
    "..",
)


@pytest.mark.slow
@pytest.mark.parametrize("key", list(all_entries())[::4])  # python -m tests.attack draws all
def test_what_parse_accepts_is_built_or_refused(key, tmp_path, monkeypatch):
    """Builds the setup of a debug run, up to the first step, with every accepted odd value."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for value in SAMPLED:
        config = with_value(key, value)
        try:
            parsed = parse(config)
        except UserError:
            continue
        try:
            build(parsed, Console(quiet=True))
        except UserError as error:
            assert len(str(error)) < 6000
