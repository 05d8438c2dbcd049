"""Tests of the worked examples in docs/extend.md; that of a tuner is in tuners/test_contract.py."""

import os
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from support.paths import GOLDEN, ROOT
from support.runs import train_and_test
from support.towers import close

import lift_jax
from lift_jax.data.datasets import SOURCES
from lift_jax.settings.config_file import open_config, override
from lift_jax.training import losses
from lift_jax.weights import conversion

pytestmark = pytest.mark.slow  # whole runs, and a copy of the package


@pytest.fixture(autouse=True)
def tables(monkeypatch):
    """Takes the names of the examples out of the tables after each test."""
    monkeypatch.setattr(conversion, "FORMATS", conversion.FORMATS)
    before = dict(losses.LOSSES), dict(SOURCES)
    yield
    for table, names in zip((losses.LOSSES, SOURCES), before, strict=True):
        table.clear()
        table.update(names)


def example(title, language="python"):
    """Returns the first code block of a section of the page."""
    page = (ROOT / "docs" / "extend.md").read_text(encoding="utf-8")
    section = page.partition(f"\n## {title}\n")[2]
    return re.search(rf"```{language}\n(.*?)```", section, re.S)[1]


def config_of(title, tmp_path):
    """Returns the config of an example that is a config file, short enough for a test."""
    (tmp_path / "mine.py").write_text(example(title))
    config = open_config(f"{tmp_path / 'mine.py'}").config
    override(config, [("train.epochs", "1"), ("test.tte", "false")])
    return config


def test_the_loss_trains_and_is_what_it_says(tmp_path):
    config = config_of("A loss", tmp_path)
    config.loss.name = "smooth"
    config.data.name = "fake"
    assert train_and_test(config, tmp_path / "W")["steps"] > 0
    logits, labels = np.array([[2.0, 0.0], [0.0, 1.0]], np.float32), np.array([0, 0])
    log_p = jax.nn.log_softmax(logits)
    target = np.array([[0.95, 0.05], [0.95, 0.05]])
    loss = losses.make("smooth", [5, 3])(logits, labels)
    assert loss == pytest.approx(-(target * log_p).sum(axis=1).mean())


def test_the_backbone_layout_reads_the_same_weights(tmp_path, golden):
    exec(example("A backbone layout"), {"__name__": "mine"})
    with safetensors.safe_open(GOLDEN / "timm_vit.safetensors", "np") as file:
        tensors = {f"model.{name}": file.get_tensor(name) for name in file.keys()}
        metadata = file.metadata()
    path = tmp_path / "lightning.safetensors"
    safetensors.numpy.save_file(tensors, path, metadata)
    backbone = lift_jax.load_backbone(path)
    close(
        jax.jit(backbone.encode_image)(golden("clip_openai")["images"]), golden("timm_vit")["cls"]
    )


def test_the_data_source_trains(tmp_path):
    config = config_of("A data source", tmp_path)
    found = train_and_test(config, tmp_path / "W")
    assert found["test"]["images"] == 20


def patched(text, diff):
    """Returns a text with the changes of one file's part of a diff, each hunk at its one place."""
    for hunk in diff.split("@@\n"):
        lines = hunk.splitlines(keepends=True)
        old, new = ("".join(x[1:] for x in lines if x[0] in kept) for kept in (" -", " +"))
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def test_the_column_is_shown_and_older_runs_have_a_dash(tmp_path):
    shutil.copytree(ROOT / "lift_jax", tmp_path / "lift_jax")
    for part in example("A column of the report", "diff").split("--- ")[1:]:
        name, _, diff = part.partition("\n")
        file = tmp_path / name
        file.write_text(patched(file.read_text(), diff))
    script = """
import sys
import numpy as np
from pathlib import Path
from lift_jax.evaluation import metrics
from lift_jax.reports import report
from test_report import Page, edit, make_run
new, old = Path("new"), Path("old")
found, _ = make_run(new), make_run(old)
results = "zero_shot", "test", "test_tte"
edit(old / "metrics.json", lambda v: [v[key].pop("median") for key in results])
shown, dashes = (Page(report.write(folder)).texts for folder in (new, old))
assert "median" in shown and f"{found['test']['median']:.2f}" in shown
assert "median" in dashes and dashes.count("\u2013") == shown.count("\u2013") + 3
"""
    folders = (tmp_path, ROOT / "tests", ROOT / "tests" / "reports", ROOT)
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path, capture_output=True, text=True, timeout=100,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders))},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
