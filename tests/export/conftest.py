"""Runs for the tests of exports, made once."""

import importlib

import pytest
from support.exported import RUNS
from support.runs import train_and_test


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Returns a function from a name in RUNS to a run folder, which is made once."""
    made = {}

    def run(name):
        if name not in made:
            config = importlib.import_module("configs.demo").get_config("debug")
            config.test.tte, config.train.lr = False, 0.1
            config.update_from_flattened_dict(RUNS[name])
            made[name] = tmp_path_factory.mktemp("runs") / name
            train_and_test(config, made[name])
        return made[name]

    return run
