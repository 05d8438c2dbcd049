"""Tests of prediction: a run gives new images the names that it gave them in its test."""

import csv
import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.commands import run_command
from support.paths import ROOT
from support.runs import train_and_test

import lift_jax
from lift_jax.errors import UserError
from lift_jax.runs.answers import output

CLASSES = ("arctic_hare", "moose", "red_fox")
COLOURS = ((240, 240, 240), (90, 60, 30), (200, 80, 20))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Makes eight noisy images a class, of one colour and several sizes; two are to test."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name, colour in zip(CLASSES, COLOURS, strict=True):
        for i in range(8):
            folder = root / ("test" if i > 5 else "train") / name
            folder.mkdir(parents=True, exist_ok=True)
            noise = rng.integers(-40, 40, (50 + i, 70 - i, 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    config = importlib.import_module("configs.folder").get_config("debug")
    config.data.name, config.data.root = "folder", str(photos)
    config.train.epochs, config.train.batch, config.train.lr = 8, 8, 0.1
    workdir = tmp_path_factory.mktemp("run")
    train_and_test(config, workdir)
    return workdir


def test_a_predictor_is_silent(run):
    """Libraries have nothing to warn of, also in a program that does not quieten them."""
    code = f"import lift_jax; lift_jax.Predictor({str(run)!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_empty_name_is_not_the_folder_here(run):
    with pytest.raises(UserError, match="name of an image is empty"):
        lift_jax.Predictor(run).predict("")


def accuracy(found, names):
    return 100 * np.mean([one.labels[0] == name for one, name in zip(found, names, strict=True)])


def test_it_names_the_test_images_as_the_test_did(run, photos):
    results = json.loads((run / "metrics.json").read_text())
    paths = sorted((photos / "test").rglob("*.png"))
    names = [path.parent.name for path in paths]
    for tte, row in ((False, "test"), (True, "test_tte"), (None, "test_tte")):
        predictor = lift_jax.Predictor(run, tte=tte)
        found = predictor.predict(paths)
        assert accuracy(found, names) == pytest.approx(results[row]["overall"])
        assert found == predictor.predict(photos / "test")  # the folder is its images
    assert results["test"]["overall"] > 60  # above chance of 33: it has learned


def test_paths_pillow_images_and_arrays_are_the_same(run, photos):
    predictor = lift_jax.Predictor(run, tte=False, batch=8)
    path = photos / "test" / "moose" / "6.png"
    image = Image.open(path)
    found = predictor.predict([path, str(path), image, np.asarray(image), image.convert("P")], 2)
    (alone,) = predictor.predict(image, top_k=3)
    assert predictor.predict(np.asarray(image), top_k=3) == [alone]
    assert predictor.predict(np.asarray(image)[None], top_k=3) == [alone]
    assert len({one.labels for one in found}) == 1
    np.testing.assert_allclose([one.probabilities for one in found[:4]],
                               [alone.probabilities[:2]] * 4, rtol=1e-5)  # fmt: skip
    assert sorted(alone.labels) == sorted(CLASSES) and not alone.error
    assert sum(alone.probabilities) == pytest.approx(1, abs=1e-5)
    assert list(alone.probabilities) == sorted(alone.probabilities, reverse=True)
    assert predictor.predict([]) == []
    many = predictor.predict([image] * 21)  # two batches and a part
    assert len(many) == 21 and len({one.labels for one in many}) == 1
    assert len(predictor.predict(image, top_k=99)[0].labels) == 3


def test_images_that_cannot_be_read(run, photos, tmp_path):
    predictor = lift_jax.Predictor(run, tte=False)
    (tmp_path / "torn.jpg").write_bytes(b"\xff\xd8 no")
    good = photos / "test" / "moose" / "6.png"
    with pytest.raises(UserError, match="torn.jpg"):
        predictor.predict([good, tmp_path / "torn.jpg"])
    with pytest.raises(UserError, match="no.jpg"):
        predictor.predict(tmp_path / "no.jpg")
    found = predictor.predict([tmp_path / "torn.jpg", good, np.zeros((3, 3))], skip=True)
    assert "torn.jpg" in found[0].error and found[0].labels == ()
    assert found[1] == predictor.predict(good)[0]
    assert "image 2: expected a path" in found[2].error and "float64[3, 3]" in found[2].error
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty holds no image"):
        predictor.predict(tmp_path / "empty")
    with pytest.raises(UserError, match="top_k is 0"):
        predictor.predict(good, top_k=0)
    with pytest.raises(UserError, match="batch is 0"):
        lift_jax.Predictor(run, batch=0)
    with pytest.raises(UserError, match="expected a run folder"):
        lift_jax.Predictor(tmp_path / "no")


def test_the_command(run, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(output, "SHOWN", 4)
    table = tmp_path / "found.csv"
    flags = [f"--run={run}", "--top_k=2", f"--to={table}", "--no-tte"]
    run_command("predict", *flags, str(photos / "test"))
    said = capsys.readouterr().out
    assert "and 2 more" in said and "arctic_hare" in said and "%" in said
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert list(rows[0]) == [
        "image",
        "class_1",
        "probability_1",
        "class_2",
        "probability_2",
        "error",
    ]
    assert [Path(row["image"]).parent.name for row in rows] == [n for n in CLASSES for _ in (6, 7)]
    expected = lift_jax.Predictor(run, tte=False).predict(photos / "test")
    assert [row["class_1"] for row in rows] == [one.labels[0] for one in expected]
    assert float(rows[3]["probability_2"]) == pytest.approx(expected[3].probabilities[1], rel=1e-5)

    (tmp_path / "torn.jpg").write_bytes(b"\xff\xd8 no")
    with pytest.raises(SystemExit) as status:  # the others are named all the same
        run_command("predict", *flags, str(tmp_path / "torn.jpg"), str(photos / "test" / "moose"))
    streams = capsys.readouterr()
    assert status.value.code == 2 and "1 of 3 images could not be read" in streams.err
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert "torn.jpg" in rows[0]["error"] and not rows[0]["class_1"] and rows[1]["class_1"]
    for wrong in (["--run=/no", "x.jpg"], [f"--run={run}", str(tmp_path / "nowhere" / "x.jpg")]):
        with pytest.raises(SystemExit) as status:
            run_command("predict", *wrong)
        assert status.value.code == 2 and capsys.readouterr().err.startswith("error: ")


def test_importing_it_defines_no_flag():
    """A program that imports it may define a flag of the name config."""
    code = "from lift_jax import Predictor; from absl import flags"
    code += "; assert 'config' not in flags.FLAGS"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100, cwd=ROOT)


@pytest.mark.slow
def test_a_run_on_texts(photos, tmp_path):
    """A run without a classifier of its own encodes its tuned words again."""
    config = importlib.import_module("configs.folder").get_config("debug,tuner=coop+lora")
    config.data.name, config.data.root, config.test.tte = "folder", str(photos), False
    found = train_and_test(config, tmp_path)
    paths = sorted((photos / "test").rglob("*.png"))
    named = lift_jax.Predictor(tmp_path).predict(paths)
    right = accuracy(named, [path.parent.name for path in paths])
    assert right == pytest.approx(found["test"]["overall"])


def test_a_pattern_names_images(run, photos, tmp_path, capsys):
    """The shell does not expand a quoted pattern."""
    for i, path in enumerate(sorted((photos / "test").rglob("*.png"))[:3]):
        (tmp_path / f"im{i}.png").write_bytes(path.read_bytes())
    run_command(
        "predict", f"--run={run}", "--no-tte", f"--to={tmp_path}/a.csv", f"{tmp_path}/im[01]*"
    )
    rows = list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
    assert [row["image"] for row in rows] == [f"{tmp_path}/im0.png", f"{tmp_path}/im1.png"]
    with pytest.raises(SystemExit) as stopped:
        run_command("predict", f"--run={run}", f"{tmp_path}/no*.png")
    assert stopped.value.code == 2
    assert "no image or folder matches this pattern" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["predict", "merge", "export"])
def test_a_run_without_a_checkpoint_says_so(command, photos, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    rest = [photos] if command == "predict" else [f"--to={tmp_path}/to.safetensors"]
    with pytest.raises(SystemExit) as stopped:
        run_command(command, f"--run={tmp_path}/run", *rest)
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and "holds no checkpoint" in said and "to export" not in said
