"""Tests of the predictions and examples that a run keeps: they give the numbers of the test."""

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image
from support.answered_runs import counts_of
from support.pages import Page
from support.runs import train_and_test

from configs import demo, folder
from lift_jax.data import datasets
from lift_jax.errors import UserError
from lift_jax.evaluation import forward, metrics
from lift_jax.evaluation.insight import label_errors
from lift_jax.reports import report
from lift_jax.runs import finished_run
from lift_jax.runs.kept import examples, features, kept_file, predictions
from lift_jax.settings import parse


def config_of(**changes):
    """Returns the config of a short run of the demo that is tested in all ways."""
    config = demo.get_config("debug")
    config.train.epochs = 1
    config.update_from_flattened_dict({"data.val_share": 0.2, "test.adjust": True} | changes)
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    train_and_test(config_of(), workdir)
    return workdir


@pytest.mark.slow
def test_the_results_follow_from_the_predictions(run):
    kept, made = predictions.read(run), finished_run.load(run)
    data = datasets.load(parse(config_of()).data, 0)
    assert np.array_equal(kept.rows, np.arange(len(data.test)))
    assert np.array_equal(kept.labels, data.test.labels)
    assert list(kept.answers) == ["test_adjusted", "test_tte_adjusted"]
    for key, answers in kept.answers.items():
        assert answers.classes.shape == (len(data.test), 5)
        assert (np.diff(answers.probabilities, axis=1) <= 0).all()
        surest = answers.probabilities[:, 0]
        counts = counts_of(kept.labels, answers.classes[:, 0], surest, len(made.names))
        assert metrics.summarise(counts, data.group_counts) == made.results[key]
        inside = (answers.classes == kept.labels[:, None]).any(axis=1)
        own = np.where(answers.classes == kept.labels[:, None], answers.probabilities, 0).sum(1)
        np.testing.assert_array_equal(answers.label[inside], own[inside])
        assert (answers.label <= answers.probabilities[:, 0]).all()
    right = kept.zero_shot == kept.labels
    assert 100 * right.mean() == pytest.approx(made.results["zero_shot"]["overall"])


@pytest.mark.slow
def test_a_test_again_keeps_the_same_bytes(run):
    names = (predictions.NAME, examples.NAME, examples.DOUBTFUL_LABELS)
    before = [(run / name).read_bytes() for name in names]
    train_and_test(config_of(), run, mode="evaluate")
    assert [(run / name).read_bytes() for name in names] == before


@pytest.mark.slow
def test_the_images_of_the_report_are_kept(run):
    """Those of the test split and of the training split, as small JPEGs."""
    found, kept = examples.read(run), predictions.read(run)
    data = datasets.load(parse(config_of()).data, 0)
    assert {key.partition("/")[0] for key in found.images} == {"test", "train"}
    assert len(found.images) <= 150
    for key, jpeg in found.images.items():
        split, _, row = key.partition("/")
        with Image.open(io.BytesIO(jpeg)) as image:
            assert max(image.size) <= examples.SIDE
            pixels = np.asarray(image.convert("RGB")).astype(int)
        original = np.asarray({"test": data.test, "train": data.train}[split].images[int(row)])
        assert np.abs(pixels - original).mean() < 40  # noise, of which JPEG loses much
    page = Page(report.write(run))
    photos = [a["src"] for tag, a in page.elements if tag == "img" and "jpeg" in a["src"]]
    assert len(set(photos)) == len(set(found.images.values()))  # all are shown, and no other
    assert "absent" not in [a.get("class") for _, a in page.elements]
    assert set(found.mistakes.tolist()) <= set(kept.rows.tolist())


@pytest.mark.slow
def test_mistakes_lie_beside_the_training_images_most_like_them(run):
    found, kept = examples.read(run), features.read(run)
    of_all = kept.after.astype(np.float32)
    for row, near, cosines in zip(found.mistakes, found.neighbours, found.cosines, strict=True):
        (query,) = kept.test_after[kept.test_rows == row].astype(np.float32)
        expected = np.sort(of_all @ query / np.linalg.norm(query))[::-1][:3]
        np.testing.assert_allclose(cosines, expected, atol=1e-3)
        assert len(set(near.tolist())) == 3


@pytest.mark.slow
def test_all_doubtful_labels_are_listed(run):
    with (run / examples.DOUBTFUL_LABELS).open(newline="") as file:
        rows = list(csv.DictReader(file))
    found, kept = examples.read(run), predictions.read(run)
    one = kept.answers["test_adjusted" if one_crop_stands(run) else "test_tte_adjusted"]
    of_test = label_errors.doubts(kept.labels, one.label, one.classes, one.probabilities)
    splits = [row["split"] for row in rows]
    assert splits.count("train") == len(found.doubts.places)
    assert splits.count("test") == len(of_test.places)
    names = finished_run.load(run).names
    for row, i in zip([r for r in rows if r["split"] == "test"], of_test.places, strict=True):
        assert row["class"] == names[kept.labels[i]] and "test image" in row["image"]


def one_crop_stands(run):
    means = json.loads((run / "metrics.json").read_text())["validation"]
    return means["test_tte"] < means["test"]


@pytest.mark.slow
def test_images_that_cannot_be_read_have_no_prediction(tmp_path):
    rng = np.random.default_rng(0)
    for split, number in (("train", 4), ("test", 5)):
        for c, name in enumerate(("cat", "dog", "fox")):
            for i in range(number):
                path = tmp_path / "data" / split / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = rng.integers(0, 80, (40, 50, 3), np.uint8) + np.uint8(60 * c)
                Image.fromarray(pixels).save(path)
    (tmp_path / "data" / "test" / "cat" / "1.png").write_bytes(b"no image")
    config = folder.get_config("debug")
    config.update_from_flattened_dict(
        {"data.name": "folder", "data.root": str(tmp_path / "data"), "train.epochs": 1,
         "data.on_bad_image": "skip", "test.tte": False}
    )  # fmt: skip
    train_and_test(config, tmp_path / "w")
    kept = predictions.read(tmp_path / "w")
    assert kept.rows.tolist() == [0, *range(2, 15)]
    assert kept.labels.tolist() == [0] * 4 + [1] * 5 + [2] * 5
    assert list(kept.answers) == ["test"]
    assert kept.answers["test"].classes.shape == (14, 3)  # of three classes
    images = examples.read(tmp_path / "w")
    assert "test/1" not in images.names and report.write(tmp_path / "w").exists()
    shown = {name for key, name in images.names.items() if key.startswith("test")}
    assert shown and all(name.endswith(".png") for name in shown)


def test_answers_by_hand():
    """Two images, one of them padding; logits ln 1, ln 2, ln 5, ln 2 give eighths and a tie."""
    logits = np.log(np.array([[1.0, 2, 5, 2], [1, 1, 1, 1]], np.float32))
    batch = {
        "label": np.array([1, 0], np.int32), "mask": np.array([True, False]),
        "row": np.array([7, 8], np.int32),
    }  # fmt: skip
    found = forward.answers(logits, batch, 3)
    assert np.asarray(found["answer_image"]).tolist() == [[7, 1], [-1, 0]]
    assert np.asarray(found["answer_classes"])[0].tolist() == [2, 1, 3]
    np.testing.assert_allclose(found["answer_probabilities"][0], [0.5, 0.2, 0.2], rtol=1e-6)
    np.testing.assert_allclose(found["answer_label"][0], [0.2], rtol=1e-6)
    assert forward.answers(logits, batch, 9)["answer_classes"].shape == (2, 4)


def test_rows_are_joined_where_counts_are_summed():
    part = {"n": np.array([1, 2]), "answer_classes": np.array([[1, 2]], np.int32)}
    total = metrics.add(metrics.add(None, part), part)
    assert total["n"].tolist() == [2, 4]
    assert total["answer_classes"].tolist() == [[1, 2], [1, 2]]
    assert total["answer_classes"].dtype == np.int32
    shifted = {"answer_classes": np.zeros((3, 4, 2), np.int32)}  # of three shifts
    assert metrics.add(metrics.add(None, shifted), shifted)["answer_classes"].shape == (3, 8, 2)


@pytest.mark.parametrize(
    ("results", "validation", "expected"),
    [
        (("zero_shot",), None, "zero_shot"),
        (("zero_shot", "test"), {"test": 2, "test_tte": 1}, "test"),
        (("test", "test_tte"), None, "test_tte"),
        (("test", "test_tte"), {"test": 1, "test_tte": 1}, "test_tte"),
        (("test", "test_tte"), {"test": 2, "test_tte": 1}, "test"),
        (("test", "test_adjusted", "test_tte", "test_tte_adjusted"),
         {"test": 2, "test_tte": 1}, "test_adjusted"),
    ],
)  # fmt: skip
def test_the_result_that_stands_for_a_run(results, validation, expected):
    assert predictions.headline_result(results, validation) == expected


@pytest.mark.parametrize("kind", [predictions, examples, features])
@pytest.mark.parametrize(("version", "words"), [
    ("0", "is of another version"), ("1", "is not what lift_jax wrote: KeyError"),
])  # fmt: skip
def test_a_file_of_another_version_or_content_is_named(tmp_path, kind, version, words):
    assert kind.read(tmp_path) is None
    kept_file.write(tmp_path / kind.NAME, {"rows": np.zeros(1)}, {"version": version})
    with pytest.raises(UserError, match=f"{kind.NAME} {words}"):
        kind.read(tmp_path)


@pytest.mark.parametrize("names", [b"{", b"\xff"])
def test_names_that_are_no_text_are_named(tmp_path, names):
    arrays = {"names": np.frombuffer(names, np.uint8)}
    kept_file.write(tmp_path / examples.NAME, arrays, {"version": examples.VERSION})
    with pytest.raises(UserError, match="examples.safetensors is not what lift_jax wrote"):
        examples.read(tmp_path)
