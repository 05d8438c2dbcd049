"""A whole run in folders with names of all kinds of letters: trained, continued, read, reported."""

import shutil

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from support.commands import run_command
from support.runs import saved_leaves, train_and_test

import lift_jax
from configs import demo
from lift_jax.errors import UserError
from lift_jax.reports import comparison, report
from lift_jax.runs.answers import given
from lift_jax.runs.weights import export
from lift_jax.settings import config_file

pytestmark = pytest.mark.slow  # whole runs, or many compilations

PARENT = "-exp[1] {a} *?% "  # with a space at its end
NAME = "~#$HOME'\"ü数\n\\[/b]" + "n" * 160 + "."  # two folders, whose path looks like markup


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("odd") / PARENT / NAME
    return workdir, train_and_test(config_of(), workdir)


def config_of():
    config = demo.get_config("debug")
    config.train.epochs = 1
    return config


def test_it_is_the_run_of_a_plain_name(odd, tmp_path, capsys):
    workdir, found = odd
    plain = train_and_test(config_of(), tmp_path / "plain")
    assert found["test"] == plain["test"] and found["steps"] == 2
    for name, leaf in saved_leaves(tmp_path / "plain").items():
        assert np.array_equal(export.read_tuned(workdir)[name], leaf)
    moved = shutil.copytree(workdir, tmp_path / "moved")
    for path in (workdir, moved):  # wherever it lies
        again = train_and_test(config_of(), path)
        assert again["test"] == found["test"] and again["seconds"] == found["seconds"]
    assert "is finished" in " ".join(capsys.readouterr().out.split())


def test_a_run_continues_there(odd, tmp_path):
    config = config_of()
    config.train.epochs, config.checkpoint.every_steps = 2, 1
    straight = train_and_test(config, tmp_path / PARENT / NAME)
    newest = tmp_path / PARENT / NAME / "checkpoints/4"
    shutil.rmtree(newest)
    assert train_and_test(config, tmp_path / PARENT / NAME)["test"] == straight["test"]
    assert newest.exists()


def test_the_commands_read_it(odd, tmp_path, monkeypatch):
    workdir, _ = odd
    to = tmp_path / NAME / "[1].safetensors"
    to.parent.mkdir(parents=True)
    run_command("export", f"--run={workdir}", f"--to={to}")
    with safe_open(to, "numpy") as file:
        assert len(list(file.keys())) > 1
    assert report.write(workdir).read_text().startswith("<!doctype html>")
    picture = Image.fromarray(np.zeros((32, 32, 3), np.uint8))
    for name in ("im[1].jpg", "im1.jpg", "im2.jpg"):
        picture.save(tmp_path / name)
    run_command(
        "predict", f"--run={workdir}", str(tmp_path / "im[1].jpg"), f"--to={to.parent / 'x.csv'}"
    )
    lines = (to.parent / "x.csv").read_text().splitlines()
    assert len(lines) == 2 and "im[1].jpg" in lines[1]
    monkeypatch.chdir(tmp_path)
    assert [p.name for p in given.files("im[2].jpg")] == ["im2.jpg"]  # a pattern
    assert lift_jax.Predictor(workdir).predict(picture)[0].labels


def test_two_runs_are_compared_there(odd, tmp_path):
    workdir, _ = odd
    second = shutil.copytree(workdir, tmp_path / "_$a$ $b$")
    page = comparison.compare([workdir, second], tmp_path / NAME)
    assert page.parent == tmp_path / NAME and "$a$" in page.read_text()


def test_a_config_file_may_lie_anywhere(tmp_path):
    file = tmp_path / "a:b[1]" / "mine.py"
    file.parent.mkdir()
    file.write_text("from configs.demo import get_config\n")
    assert config_file.open_config(f"{file}:debug").config.model.backbone == "debug"
    with pytest.raises(UserError, match="~nobody/x.py"):
        config_file.open_config("~nobody/x.py")


def test_what_no_system_allows_is_refused(tmp_path):
    for name in ("a\0b", "n" * 300):
        with pytest.raises(UserError, match="Cannot write in the folder"):
            train_and_test(config_of(), tmp_path / name)
