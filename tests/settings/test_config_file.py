"""Tests of config files: found by name or path, run, and changed from the command line."""

import os
import shutil
import subprocess
import sys

import pytest
from support.paths import ROOT

from lift_jax import settings
from lift_jax.errors import UserError
from lift_jax.settings import config_file

NAMES = ["base", "cifar100", "demo", "folder", "imagenet_lt", "inat", "places_lt"]


def test_shipped_configs_are_found_by_name_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config_file.shipped_names() == NAMES
    for name in NAMES:
        chosen = config_file.open_config(f"{name}:debug")
        assert (chosen.shipped, chosen.argument, chosen.title) == (name, "debug", f"{name}:debug")
        assert chosen.config.data.name == "fake"
    assert config_file.open_config("configs/inat.py").shipped == "inat"


def test_an_installed_package_brings_the_configs(tmp_path):
    """The configs are found in files laid out as `pip install .` does (package-dir)."""
    installed = tmp_path / "site" / "lift_jax"
    shutil.copytree(ROOT / "lift_jax", installed, ignore=shutil.ignore_patterns("tiny_clip"))
    shutil.copytree(ROOT / "configs", installed / "configs")
    code = (
        "import lift_jax; from lift_jax import settings\n"
        "from lift_jax.settings import config_file\n"
        f"assert lift_jax.__file__.startswith({str(installed)!r})\n"
        f"assert config_file.shipped_names() == {NAMES}\n"
        "for name in ('demo', 'configs/inat.py'): settings.parse(settings.load(name, 'debug'))"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment, timeout=60
    )


def test_a_file_of_ones_own_wins_over_a_shipped_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "inat.py").write_text(
        "from lift_jax import settings\n"
        "def get_config(argument=None):\n"
        "    c = settings.load('demo', argument)\n"
        "    c.train.lr = 0.125\n"
        "    return c\n"
    )
    chosen = config_file.open_config("inat.py:tuner=lora")
    assert (chosen.config.train.lr, chosen.config.tuner.name) == (0.125, "lora")
    assert chosen.shipped == ""  # so that it is not compared with published numbers
    assert config_file.open_config("inat").shipped == "inat"
    assert chosen.get_config("method=lift").label == "LIFT"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("raise ValueError('no')", "Cannot run the config file .*: line 1: ValueError"),
        ("x = 1\ny = (", "Cannot run the config file .*: line 2: SyntaxError: '\\(' was never"),
        ("import a_module_that_is_not_there", "Cannot run .*a_module_that_is_not_there"),
        ("get_config = 3", "no function get_config"),
        ("def get_config(a): return {}", "expected a ConfigDict"),
        ("def get_config(a):\n    raise KeyError('x')", "get_config of .*: line 2: KeyError"),
        (
            "import json\ndef get_config(a):\n    return json.loads('{')",
            ": line 3: JSONDecodeError",
        ),
    ],
)
def test_mistakes_in_a_file_are_told(text, words, tmp_path):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(UserError, match=words):
        config_file.open_config(str(tmp_path / "mine.py"))


@pytest.mark.parametrize(
    ("name", "words"),
    [("dmeo", "Did you mean 'demo'"), ("configs/domo.py", "configs/domo.py"), ("x/y.py", "inat")],
)
def test_a_config_that_does_not_exist_names_the_near_ones(name, words):
    with pytest.raises(UserError, match=words):
        config_file.open_config(name)


def test_settings_are_changed_by_text():
    config = settings.load("demo")
    config_file.override(
        config,
        [
            ("train.epochs", "3"), ("train.lr", "1e-3"), ("test.tte", "False"),
            ("data.exif", None), ("head.prompt", "{} = a"), ("seed", "7"), ("data.root", ""),
        ],
    )  # fmt: skip
    c = config
    assert (c.train.epochs, c.train.lr, c.test.tte, c.data.exif) == (3, 1e-3, False, True)
    assert (c.head.prompt, c.seed, c.data.root) == ("{} = a", 7, "")


@pytest.mark.parametrize(
    ("key", "text", "words"),
    [
        ("train.epoch", "3", "no such key: train.epoch .*Did you mean train.epochs"),
        ("train", "3", "train is a group"),
        ("train.epochs", "3.5", "--config.train.epochs is '3.5'; expected a whole number"),
        ("train.lr", "fast", "--config.train.lr is 'fast'; expected a number"),
        ("train.flip", "yes", "--config.train.flip is 'yes'; expected true or false"),
        ("train.lr", None, "--config.train.lr needs a value"),
    ],
)
def test_mistakes_in_settings_are_told(key, text, words):
    with pytest.raises(UserError, match=words):
        config_file.override(settings.load("demo"), [(key, text)])


def test_every_config_loads_without_jax():
    code = (
        "import sys; from lift_jax import settings\n"
        f"for name in {NAMES}: settings.parse(settings.load(name))\n"
        "assert 'jax' not in sys.modules and 'numpy' not in sys.modules, 'slow to import'"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=60)
