"""Tests of test.split: accuracy on the training and validation images, beside that on test."""

import json
import shutil

import numpy as np
import pytest
from support.runs import train_and_test

import lift_jax
from configs import demo
from lift_jax.data import datasets
from lift_jax.errors import UserError
from lift_jax.evaluation.tables import SPLITS
from lift_jax.reports import report
from lift_jax.runs import finished_run
from lift_jax.runs.kept import other_split
from lift_jax.settings import parse
from lift_jax.storage import atomic
from lift_jax.sweeps import finished_runs

pytestmark = pytest.mark.slow  # whole runs
RESULTS = ("config.json", "metrics.json", "per_class.csv", "checksums.json")


def config_of(split: str, **changes):
    config = demo.get_config("debug")
    config.test.split = split
    config.update_from_flattened_dict({"data.val_share": 0.2, "test.tte": False} | changes)
    return config


@pytest.fixture(scope="module")
def tested(tmp_path_factory):
    """Returns a run that began before there was test.split, tested as usual."""
    workdir = tmp_path_factory.mktemp("other_split") / "run"
    config = config_of("test")
    with config.unlocked():
        del config.test["split"]
    train_and_test(config, workdir)
    return workdir


@pytest.fixture
def run(tested, tmp_path):
    return shutil.copytree(tested, tmp_path / "run")


def contents(workdir):
    return {name: (workdir / name).read_bytes() for name in RESULTS}


@pytest.mark.parametrize(("mode", "split"), [("evaluate", "train"), ("train", "val")])
def test_another_split_leaves_the_results_on_test(mode, split, run, capsys):
    before = contents(run)
    train_and_test(config_of(split), run, mode)
    assert contents(run) == before
    assert f"LIFT+ on {SPLITS[split]} images" in capsys.readouterr().out
    found = json.loads((run / f"metrics_{split}.json").read_text())
    data = datasets.load(parse(config_of(split)).data, 0)
    images = data.train if split == "train" else data.val
    assert found["test"]["images"] == found["zero_shot"]["images"] == len(images)

    # by another way: the predictor of the run, image by image
    predictor = lift_jax.Predictor(run)
    answers = predictor.logits([np.asarray(images.images[i]) for i in range(len(images))])
    right = np.asarray(answers).argmax(-1) == images.labels
    assert found["test"]["overall"] == pytest.approx(100 * right.mean())
    classes = [right[images.labels == c].mean() for c in np.unique(images.labels)]
    assert found["test"]["mean"] == pytest.approx(100 * np.mean(classes))

    # the report has a line for it, and it is not measured twice
    assert finished_run.load(run).splits == {split: found["test"]}
    assert f"on {SPLITS[split]} images" in report.write(run).read_text()
    capsys.readouterr()
    train_and_test(config_of(split), run)
    out = " ".join(capsys.readouterr().out.split())
    assert "is finished, all 2 steps" in out and f"on {SPLITS[split]}" not in out


def test_a_run_that_is_not_tested_gets_both(tmp_path):
    trained = train_and_test(config_of("train"), tmp_path)
    assert trained["test"] == json.loads((tmp_path / "metrics.json").read_text())["test"]
    assert json.loads((tmp_path / "metrics_train.json").read_text())["test"]
    assert finished_runs.finished(tmp_path, config_of("train"))["train"]
    assert "train" not in finished_runs.finished(tmp_path, config_of("test"))
    assert finished_runs.finished(tmp_path, config_of("val")) is None


@pytest.mark.parametrize("changes", [
    {"steps": 1}, {"interpolation": "bilinear"}, {"test": {"overall": 1.0}}, {"test": 3},
    {"zero_shot": "none"},
], ids=str)  # fmt: skip
def test_a_file_of_another_state_or_a_damaged_one_does_not_count(changes, tmp_path, capsys):
    whole = {"steps": 2, "interpolation": "bicubic", "zero_shot": None, "test": None}
    atomic.write_json(tmp_path / "metrics_val.json", whole)
    assert other_split.read(tmp_path, "val", 2, "bicubic") == whole
    assert other_split.read(tmp_path, "train", 2, "bicubic") is None  # there is none
    assert not capsys.readouterr().err
    atomic.write_json(tmp_path / "metrics_val.json", whole | changes)
    assert other_split.read(tmp_path, "val", 2, "bicubic") is None
    damaged = not changes.keys() & {"steps", "interpolation"}
    assert ("metrics_val.json is damaged or" in capsys.readouterr().err) == damaged
    for text in ('{"steps":', "{}"):
        (tmp_path / "metrics_val.json").write_text(text)
        assert other_split.read(tmp_path, "val", 2, "bicubic") is None
        assert "--config.test.split=val makes it anew" in capsys.readouterr().err


def test_without_a_validation_split_there_is_a_line(tmp_path):
    with pytest.raises(UserError, match="test.split=val tests on the validation split, and"):
        train_and_test(config_of("val", **{"data.val_share": 0.0}), tmp_path)
    with pytest.raises(UserError, match="test.split"):
        parse(config_of("training"))
