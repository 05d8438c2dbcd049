"""Tests of the page's answers: they are the predictor's, with what the run knows beside them."""

import base64
import concurrent.futures
import csv
import io
import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image
from support.commands import run_command
from support.nasty_names import NASTY
from support.web import ask, request, serving_run

from configs import folder
from lift_jax.app.answerer import Answerer
from lift_jax.app.limits import Limits
from lift_jax.app.training_images import TrainingImages
from lift_jax.data import datasets
from lift_jax.data.sources import download
from lift_jax.errors import UserError
from lift_jax.evaluation.insight import neighbours
from lift_jax.output.plain import printable
from lift_jax.runs.answers import calibration_file
from lift_jax.runs.kept import features, kept_file
from lift_jax.settings import parse


@pytest.fixture(scope="module")
def port(answerer):
    answerer.warm_up()
    with serving_run(answerer, Limits()) as port:
        yield port


def test_they_are_those_of_the_predictor(port, answerer, images, run):
    status, found = ask(port, [(f"{i}.png", image) for i, image in enumerate(images)])
    expected = answerer.predictor.predict(images, 5, unknown=True, sets=True)
    assert status == 200 and found["calibrated"] and found["notes"] == []
    assert found["coverage"] == json.loads((run / calibration_file.NAME).read_text())["coverage"]
    assert len(found["images"]) == len(images) == 11
    for i, (one, right) in enumerate(zip(found["images"], expected, strict=True)):
        assert (one["name"], one["error"]) == (f"{i}.png", "")
        assert tuple(each["name"] for each in one["classes"]) == right.labels
        shares = tuple(each["probability"] for each in one["classes"])
        assert shares == right.probabilities  # to the last bit
        assert (one["answer"], one["unknown"]) == (right.answer, right.unknown)
        assert tuple(one["set"]) == right.prediction_set


def test_each_class_has_its_rarity(port, images, run):
    _, found = ask(port, [("a.png", images[0])])
    with open(run / "per_class.csv") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    for each in found["images"][0]["classes"]:
        row = rows[each["name"]]
        assert (each["train_images"], each["group"]) == (int(row["train_images"]), row["group"])


def test_the_training_images_are_the_most_alike(port, answerer, images, run):
    _, found = ask(port, [("a.png", images[0])])
    kept = features.read(run)
    (query,) = answerer.predictor.features([images[0]])
    cosines = neighbours.unit(kept.after) @ (query / np.linalg.norm(query))
    order = np.argsort(-cosines, kind="stable")[:5]
    near = found["images"][0]["neighbours"]
    assert [each["image"] for each in near] == [f"training/{i}" for i in order]
    names = answerer.predictor.class_names
    assert [each["class"] for each in near] == [names[kept.labels[i]] for i in order]
    assert [each["similarity"] for each in near] == pytest.approx(cosines[order], abs=1e-5)
    status, headers, body = request(port, "GET", f"/{near[0]['image']}")
    assert status == 200 and headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(body)).size == (32, 32)  # as small as it is


@pytest.mark.parametrize(
    "number", ["-1", "99999999", "1e3", "0x1", "9" * 5000, "..%2f..%2fetc%2fpasswd", "a", "%00"]
)
def test_a_number_is_all_that_chooses_a_training_image(port, number):
    assert request(port, "GET", f"/training/{number}")[0] == 404


def test_a_bad_image_does_not_spoil_the_others(port, answerer, images):
    good, (right,) = images[0], answerer.predictor.predict([images[0]])
    bomb = io.BytesIO()
    Image.new("1", (12_000, 10_000)).save(bomb, "PNG")
    bad = {
        "text.png": (b"no image", "It is no image in a known format"),
        "empty.png": (b"", "The file is empty."),
        "cut.png": (good[:100], ""),
        "bomb.png": (bomb.getvalue(), " pixels"),
        "large.png": (bytes(20_000_001), "The file has more than 20.0 MB."),
    }
    files = [("good.png", good), *((name, content) for name, (content, _) in bad.items())]
    status, found = ask(port, [*files, ("again.png", good)])
    first, *rest, last = found["images"]
    assert status == 200
    for one in (first, last):
        assert tuple(each["name"] for each in one["classes"]) == right.labels
    for one, (name, (_, reason)) in zip(rest, bad.items(), strict=True):
        assert one["name"] == name and reason in one["error"] and one["error"], one
        assert one["thumbnail"] is None and "data set" not in one["error"]


def test_a_thumbnail_is_small(port):
    file = io.BytesIO()
    Image.new("RGB", (3000, 10), (200, 0, 0)).save(file, "JPEG")
    _, found = ask(port, [("wide.jpg", file.getvalue())])
    kind, _, text = found["images"][0]["thumbnail"].partition(",")
    small = Image.open(io.BytesIO(base64.b64decode(text)))
    assert kind == "data:image/jpeg;base64" and small.size == (240, 1)


def test_names_are_text(port, images):
    names = [*NASTY, "/etc/passwd", "C:\\x.png", "a\x00b", "x" * 5000]
    names = [name for name in names if name.strip()]
    for start in range(0, len(names), 40):
        some = names[start : start + 40]
        status, found = ask(port, [(name[:3000], images[0][:50]) for name in some])
        assert status == 200
        for name, one in zip(some, found["images"], strict=True):
            assert one["name"] == printable(one["name"]) and len(one["name"]) <= 200
            plain = name.isalnum() and len(name) <= 200
            assert not plain or one["name"] == name


def test_four_clients_at_once_get_their_own_answers(port, answerer, images):
    def client(i: int):
        mine = [images[(i + k) % 11] for k in range(1 + i)]
        return mine, [ask(port, [(f"{k}", one) for k, one in enumerate(mine)]) for _ in range(3)]

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for mine, answers in pool.map(client, range(4)):
            right = answerer.predictor.predict(mine)
            for status, found in answers:
                assert status == 200
                shares = [[c["probability"] for c in one["classes"]] for one in found["images"]]
                assert shares == [list(one.probabilities) for one in right]


def test_a_run_without_the_files_says_so_and_answers(run, images, tmp_path):
    copy = shutil.copytree(run, tmp_path / "<i>copy</i>")
    for name in (calibration_file.NAME, features.NAME, "metrics.json"):
        (copy / name).unlink()
    bare = Answerer(copy)
    calibration, alike = bare.notes
    assert "lift-jax calibrate --run=" in calibration and "--mode=evaluate" in alike
    with serving_run(bare, Limits(), copy.name) as port:
        page = request(port, "GET", "/")[2].decode()
        status, found = ask(port, [("a.png", images[0])])
    assert "&lt;i&gt;copy" in page and "<i>" not in page and "lift-jax calibrate" in page
    (one,) = found["images"]
    assert status == 200 and not found["calibrated"] and found["notes"] == bare.notes
    assert one["set"] is None and not one["unknown"] and one["neighbours"] == []
    assert sum(each["probability"] for each in one["classes"]) <= 1.0001
    counts = json.loads((copy / "config.json").read_text())["data_summary"]["counts"]
    rare = {each["name"]: each["train_images"] for each in one["classes"]}
    assert all(counts[bare.predictor.class_names.index(name)] == n for name, n in rare.items())
    (copy / features.NAME).write_bytes(b"damaged")
    (note,) = [each for each in Answerer(copy).notes if features.NAME in each]
    assert "cannot be read" in note and "\n" not in note


@pytest.fixture
def photos(tmp_path):
    """Returns the settings of a folder of eight photos, and a run's features of some names."""
    for name in ("moose", "red_fox"):
        for i in range(4):
            path = tmp_path / "photos" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (30, 20), (40 * i, 9, 9)).save(path)
    Image.new("RGB", (30, 20)).save(tmp_path / "secret.png")
    config = folder.get_config("debug")
    config.data.name, config.data.root = "folder", str(tmp_path / "photos")
    config.data.test_share = 0.25
    return parse(config), tmp_path


def test_only_listed_files_of_the_data_are_shown(photos):
    settings, tmp_path = photos
    listed = sorted(str(p.relative_to(tmp_path / "photos")) for p in tmp_path.rglob("?.png"))
    names = [*listed, "../secret.png", str(tmp_path / "secret.png"), "moose/gone.png"]
    arrays = {
        "train_names": np.frombuffer(json.dumps(names).encode(), np.uint8),
        "test_rows": np.zeros(0, np.int32), "test_labels": np.zeros(0, np.int32),
        "train_rows": np.arange(len(names), dtype=np.int32),
        "train_labels": np.zeros(len(names), np.int32),
        "train_after": np.eye(len(names), 16, dtype=np.float16),
        "test_after": np.zeros((0, 16), np.float16),
    }  # fmt: skip
    about = {"version": features.VERSION, "tuned": "False", "weights": "7"}
    kept_file.write(tmp_path / features.NAME, arrays, about)
    found = TrainingImages(tmp_path, settings, 7)
    shown = [i for i in range(len(names)) if found.shown(i)]
    assert found.notes == [] and len(shown) == 6 and max(shown) < 8  # two of eight are to test
    assert found.thumbnail(shown[0])[:2] == b"\xff\xd8"
    (tmp_path / "photos" / names[shown[1]]).unlink()
    with pytest.raises(UserError, match="no such file"):
        found.thumbnail(shown[1])
    other = TrainingImages(tmp_path, settings, 8)
    assert "another checkpoint" in other.notes[0] and other.nearest(np.zeros((1, 16))) == [[]]
    shutil.rmtree(tmp_path / "photos")
    gone = TrainingImages(tmp_path, settings, 7)
    assert "Cannot open the directory" in gone.notes[0] and not any(
        map(gone.shown, range(len(names)))
    )
    assert len(gone.nearest(np.eye(1, 16))[0]) == 5  # classes and similarities remain


def test_nothing_is_downloaded(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(download, "_download", lambda *_: pytest.fail("a download began"))
    config = folder.get_config("debug")
    config.data.name, config.data.root = "cifar10", ""
    with download.offline(), pytest.raises(UserError, match="There is no .*cifar-10-binary"):
        datasets.load(parse(config).data, 0)


def test_the_command_names_what_is_missing(run, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(SystemExit) as stopped:
        run_command("app", f"--run={run}")
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and "pip install 'lift_jax[app]'" in said
    assert said.count("\n") == 1
