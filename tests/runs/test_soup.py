"""Tests of soups: the mean of the tuned leaves of runs, tested like any run."""

import csv
import importlib
import json
import shutil

import numpy as np
import pytest
from ml_collections import ConfigDict
from support.commands import run_command
from support.runs import train_and_test

from lift_jax.errors import UserError
from lift_jax.runs.weights import export, soup
from lift_jax.settings.parse import parse, to_dict
from lift_jax.training import checkpoint

pytestmark = pytest.mark.slow  # whole runs, or many compilations


def config_of(argument="debug", **changes):
    config = importlib.import_module("configs.demo").get_config(argument)
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Makes two runs of two steps each, with different learning rates and seeds."""
    folder = tmp_path_factory.mktemp("runs")
    train_and_test(config_of(), folder / "a")
    train_and_test(config_of(train__lr=0.1, seed=3, checkpoint__keep=3), folder / "b")
    return folder / "a", folder / "b"


def test_a_soup_is_the_mean_and_is_tested_beside_its_runs(runs, tmp_path, capsys):
    workdir = tmp_path / "soup"
    run_command("soup", *map(str, runs), f"--workdir={workdir}")
    out = " ".join(capsys.readouterr().out.split())
    a, b, mean = (export.read_tuned(run) for run in (*runs, workdir))
    assert a.keys() == b.keys() == mean.keys() and len(mean) > 10
    for path, leaf in mean.items():
        np.testing.assert_allclose(leaf, (a[path] + b[path]) / 2, rtol=1e-6, atol=1e-8)
    assert any(not np.array_equal(a[path], b[path]) for path in a)

    with open(workdir / "soup.csv", newline="") as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    found = {run: json.loads((run / "metrics.json").read_text()) for run in (*runs, workdir)}
    names = {runs[0]: str(runs[0]), runs[1]: str(runs[1]), workdir: "soup"}
    assert len(rows) == 6
    for run, name in names.items():
        for key, ending in (("test", ""), ("test_tte", ", with TTE")):
            assert float(rows[name + ending]["overall"]) == found[run][key]["overall"]
    assert found[workdir]["steps"] == 2
    assert "LIFT+, soup of 2 with TTE" in out and "report.html" in out

    config = ConfigDict(json.loads((workdir / "config.json").read_text()))
    del config.data_summary
    again = train_and_test(config, workdir)  # a run folder like others, and finished
    assert again["test"] == found[workdir]["test"]


def test_a_soup_of_a_run_and_its_copy_is_the_run(runs, tmp_path):
    copy = shutil.copytree(runs[0], tmp_path / "copy")
    found = soup.soup([runs[0], copy], tmp_path / "soup")
    alone = json.loads((runs[0] / "metrics.json").read_text())
    assert found["test"] == alone["test"] and found["test_tte"] == alone["test_tte"]


@pytest.mark.parametrize(("argument", "changes", "message"), [
    ("debug", {"tuner__dim": 3}, "tuner.dim: 4 -> 3"),
    ("debug", {"test__expand": 8}, "test.expand: 4 -> 8"),
    ("debug,method=lift", {}, "train.augment"),
])  # fmt: skip
def test_other_configs_do_not_mix(runs, argument, changes, message, tmp_path):
    first, second = (shutil.copytree(runs[0], tmp_path / name) for name in "ab")
    config = to_dict(config_of(argument, **changes))
    about = json.loads((second / "config.json").read_text())
    (second / "config.json").write_text(json.dumps(about | config))
    with pytest.raises(UserError, match=f"(?s)b differs from .*a in more than.*{message}"):
        soup.soup([first, second], tmp_path / "soup")


def test_other_backbones_do_not_mix(runs, tmp_path, monkeypatch):
    describe = checkpoint.read_about

    def changed(manager):
        about = describe(manager)
        if manager.directory.parent.name == "b":
            about["data_summary"]["backbone_fingerprint"] = "another"
        return about

    monkeypatch.setattr(checkpoint, "read_about", changed)
    with pytest.raises(UserError, match="data_summary.backbone_fingerprint: .* -> 'another'"):
        soup.soup(runs, tmp_path / "soup")


def test_seeds_that_draw_other_test_images_do_not_mix():
    demo = config_of("").to_dict()
    soup.check_images(parse(ConfigDict(demo)).data, [0, 0])
    with pytest.raises(UserError, match="draw different test images from data.name='digits'"):
        soup.check_images(parse(ConfigDict(demo)).data, [0, 1])


def test_what_no_soup_is_made_of(runs, tmp_path, capsys):
    with pytest.raises(UserError, match="two runs or more"):
        soup.soup([runs[0]], tmp_path / "soup")
    with pytest.raises(UserError, match="each of them once"):
        soup.soup([runs[0], runs[1], runs[0].parent / "b" / ".." / "a"], tmp_path / "soup")
    with pytest.raises(UserError, match="holds another run"):
        soup.soup(runs, runs[1])
    short = shutil.copytree(runs[0], tmp_path / "short")
    found = json.loads((short / "metrics.json").read_text())
    (short / "metrics.json").write_text(json.dumps(found | {"steps": 1}))
    with pytest.raises(UserError, match="short is not finished: 1 of 2 steps"):
        soup.soup([runs[0], short], tmp_path / "soup")
    about = json.loads((runs[0] / "config.json").read_text())
    del about["train"]
    (short / "config.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match="short/config.json: The config lacks the setting 'train."):
        soup.soup([runs[0], short], tmp_path / "soup")
    with pytest.raises(SystemExit) as stopped:
        run_command("soup", runs[0], tmp_path / "no", f"--workdir={tmp_path / 'soup'}")
    assert stopped.value.code == 2 and "expected a run folder" in capsys.readouterr().err
