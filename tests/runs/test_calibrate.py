"""Tests of calibration, from a run with a validation split to answers that can be trusted."""

import csv
import io
import json
import shutil
import sys

import jax
import numpy as np
import pytest
from PIL import Image
from support.commands import run_command
from support.runs import train_and_test

import lift_jax
from configs import demo
from lift_jax.data import datasets
from lift_jax.errors import UserError
from lift_jax.evaluation.trust import calibration, conformal, unknown
from lift_jax.reports import report
from lift_jax.runs.answers import calibration_file
from lift_jax.runs.kept import result_files
from lift_jax.settings import parse

NAME = calibration_file.NAME


def config_of(share=0.3):
    config = demo.get_config("debug")
    config.data.name, config.data.imbalance, config.data.val_share = "digits", 20.0, share
    config.train.epochs, config.test.views, config.loss.name = 1, 2, "ce"
    config.test.crops = "random"
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "w"
    train_and_test(config_of(), workdir)
    return workdir


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 255, (20, 8, 8, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def validation(run):
    """Returns the validation images, their labels and the training counts."""
    settings = parse(config_of())
    data = datasets.load(settings.data, settings.seed)
    return [np.asarray(data.val.images[i]) for i in range(len(data.val))], data.val.labels, data


def fails(capsys, *command):
    with pytest.raises(SystemExit) as stopped:
        run_command(*command)
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and said.startswith("error: ")
    return said


def copied(run, tmp_path):
    return shutil.copytree(run, tmp_path / "copy")


def test_training_calibrates_and_calibrate_gives_the_same_bytes(run, tmp_path, capsys):
    first, copy = (run / NAME).read_bytes(), copied(run, tmp_path)
    run_command("calibrate", f"--run={copy}")
    assert (copy / NAME).read_bytes() == first and not result_files.changed_files(copy)
    (copy / NAME).write_bytes(first[: len(first) // 2])  # a damaged one is made anew
    run_command("calibrate", f"--run={copy}")
    assert (copy / NAME).read_bytes() == first
    assert "Calibrated on" in capsys.readouterr().out
    run_command("calibrate", f"--run={copy}", "--keep=0.8", "--coverage=0.7")
    content = json.loads((copy / NAME).read_text())
    assert (
        content["keep"] == 0.8 and content["coverage"] == 0.7 and content["split"] == "validation"
    )


def test_the_numbers_are_those_of_the_validation_images(run, validation):
    shown, labels, data = validation
    predictor = lift_jax.Predictor(run, tte=False)
    found = json.loads((run / NAME).read_text())["one_crop"]
    logits, features = predictor.logits(shown), predictor.features(shown)
    fitted = calibration.fit_temperature(logits, labels).value
    assert found["temperature"] == pytest.approx(fitted, rel=1e-3)
    groups = calibration.reliability_by_group(logits, labels, fitted, data.group_counts)
    for name, group in groups.items():
        assert found["reliability"]["after"][name]["ece"] == pytest.approx(group["ece"], abs=0.1)
    scores = conformal.true_scores(logits, labels, "pas", data.counts)
    limit = conformal.quantile(scores, 0.9)
    assert found["sets"]["score"] == "pas"  # of ce
    assert found["sets"]["pas"]["all"] == pytest.approx(limit, rel=1e-3)
    score, areas = unknown.choose_score(logits, features, labels, fitted)
    assert found["unknown"]["score"] == score
    assert found["unknown"]["auroc"] == pytest.approx(areas, abs=1e-3)
    assert logits.shape == (len(labels), 10) and len(features) == len(labels)


def test_answers(run, validation, images, tmp_path):
    shown, labels, data = validation
    plain = copied(run, tmp_path)
    (plain / NAME).unlink()
    before, predictor = lift_jax.Predictor(plain, tte=False), lift_jax.Predictor(run, tte=False)
    view = predictor.calibration
    old, new = before.predict(shown, 3), predictor.predict(shown, 3)
    assert [one.labels for one in new] == [one.labels for one in old]  # the classes never change
    logits = predictor.logits(shown)
    expected = np.array(jax.nn.softmax(logits / view.temperature))
    best = [max(one.probabilities) for one in new]
    np.testing.assert_allclose(best, expected.max(1), rtol=1e-4)
    assert old == lift_jax.Predictor(plain, tte=False).predict(shown, 3)
    assert all(one.prediction_set is None and not one.unknown for one in old)

    # Sets hold the true class as often as asked, and a larger share gives larger sets.
    sizes = []
    for asked in (0.5, 0.8, 0.95):
        found = predictor.predict(shown, sets=asked)
        names = [predictor.class_names[c] for c in labels]
        share = np.mean([n in one.prediction_set for n, one in zip(names, found, strict=True)])
        assert share >= asked - 0.08
        sizes.append(np.mean([len(one.prediction_set) for one in found]))
        assert all(one.labels[0] in one.prediction_set for one in found)
    assert sizes == sorted(sizes)
    assert predictor.predict(shown, sets=True) == predictor.predict(shown, sets=0.9)

    # The more right answers are kept, the fewer images are unknown.
    shares = [np.mean([one.unknown for one in predictor.predict(shown, unknown=keep)])
              for keep in (0.99, 0.5, 0.01)]  # fmt: skip
    assert shares == sorted(shares) and shares[0] < shares[2]
    assert predictor.predict(images, unknown=True) == predictor.predict(images, unknown=0.95)
    found = predictor.predict(images, 1, all_probabilities=True)
    assert all(sum(one.all_probabilities) == pytest.approx(1) for one in found)
    assert all(len(one.all_probabilities) == 10 for one in found)


def test_too_few_images_for_a_coverage(run, images, capsys):
    predictor = lift_jax.Predictor(run, tte=False)
    assert all(len(one.prediction_set) == 10 for one in predictor.predict(images, sets=0.999))
    assert "need 999 validation images, and there are" in capsys.readouterr().err
    predictor.predict(images, sets=0.9)
    assert not capsys.readouterr().err


def test_it_streams_in_bounded_memory(run, images):
    predictor, taken = lift_jax.Predictor(run, tte=False, batch=2), []

    def endless():
        while True:
            taken.append(len(taken))
            yield images[taken[-1] % 20]

    answers = predictor.stream(endless(), sets=0.9)
    found = [next(answers) for _ in range(40)]
    assert len(taken) <= 64  # two times 16 batches
    answers.close()
    assert found[:20] == found[20:] == predictor.predict(images, sets=0.9)
    file = io.BytesIO()
    Image.fromarray(images[0]).save(file, format="png")
    assert predictor.predict(file.getvalue(), sets=0.9) == found[:1]
    mixed = [images[0], b"no image", "/nowhere.png", images[0]]
    errors = [one.error for one in predictor.stream(mixed, skip=True)]
    assert "image 1" in errors[1] and "/nowhere.png" in errors[2] and not errors[0] + errors[3]
    with pytest.raises(UserError, match="nowhere"):
        list(predictor.stream(mixed[2:]))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda text: text[: len(text) // 2], "is not JSON"),
        (lambda text: text.replace('"keep": 0.95', '"keep": 0.94'), "checksum"),
        (lambda text: text.replace('"temperature": ', '"temperature": 1'), "checksum"),
        (lambda text: "[]", "expected a JSON object"),
        (lambda text: "", "is not JSON"),
    ],
)
def test_a_damaged_one_is_refused(damage, words, run, images, tmp_path, capsys):
    copy = copied(run, tmp_path)
    (copy / NAME).write_text(damage((run / NAME).read_text()))
    Image.fromarray(images[0]).save(tmp_path / "a.png")
    said = fails(capsys, "predict", f"--run={copy}", tmp_path / "a.png")
    assert words in said and f"lift-jax calibrate --run={copy}" in said and said.count("\n") == 1
    assert result_files.changed_files(copy) == [NAME]
    report.write(copy)  # with a warning
    assert NAME in capsys.readouterr().err


def test_one_of_another_checkpoint_is_not_used(run, images, tmp_path, capsys):
    """As while a run goes on that was calibrated on its way."""
    copy, content = copied(run, tmp_path), calibration_file.read(run)
    calibration_file.write(copy, content | {"weights": content["weights"] ^ 1})
    found = lift_jax.Predictor(copy, tte=False).predict(images)
    assert "belongs to another checkpoint" in capsys.readouterr().err
    (copy / NAME).unlink()
    predictor = lift_jax.Predictor(copy, tte=False)
    assert found == predictor.predict(images) != lift_jax.Predictor(run, tte=False).predict(images)
    with pytest.raises(UserError, match="lift-jax calibrate --run="):
        predictor.predict(images, unknown=True)


def test_the_same_command_makes_a_damaged_one_anew(run, tmp_path, capsys):
    copy, first = copied(run, tmp_path), (run / NAME).read_bytes()
    (copy / NAME).write_bytes(first + b"x")
    train_and_test(config_of(), copy)
    assert (copy / NAME).read_bytes() == first
    assert f"{NAME} is not what the run wrote" in " ".join(capsys.readouterr().out.split())


def test_without_a_validation_split(tmp_path, images, capsys):
    train_and_test(config_of(share=0.0), tmp_path / "w")
    said = " ".join(capsys.readouterr().out.split())
    assert "Not calibrated: there is no validation split" in said
    assert "--config.data.val_share=0.1" in said and not (tmp_path / "w" / NAME).exists()
    said = fails(capsys, "calibrate", f"--run={tmp_path}/w")
    assert "there is no validation split" in said and "--config.data.val_share=0.1" in said
    assert said.count("\n") == 1
    Image.fromarray(images[0]).save(tmp_path / "a.png")
    for option in ("--unknown", "--sets=0.8"):
        said = fails(capsys, "predict", f"--run={tmp_path}/w", tmp_path / "a.png", option)
        assert f"Run `lift-jax calibrate --run={tmp_path}/w`" in said


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["calibrate", "--keep=1.5"], "--keep is 1.5"),
        (["calibrate", "--coverage=0"], "--coverage is 0"),
        (["predict", "--unknown=0"], "unknown is 0"),
        (["predict", "--sets=1"], "sets is 1"),
        (["predict", "--sets=x"], "--sets"),
        (["predict", "--link"], "--sort-into"),
        (["predict", "--probabilities=all"], "--to=FILE"),
        (["predict", "--probabilities=some"], "top"),
        (["predict", "--to=named.json"], "named.json (--to) ends in '.json'; expected .csv"),
    ],
    ids=str,
)
def test_mistakes(command, words, run, images, tmp_path, capsys):
    Image.fromarray(images[0]).save(tmp_path / "a.png")
    image = [tmp_path / "a.png"] * (command[0] == "predict")
    assert words in fails(capsys, *command, f"--run={run}", *image)


def test_the_command(run, images, tmp_path, capsys, monkeypatch):
    for i, image in enumerate(images[:6]):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    (tmp_path / "torn.png").write_bytes(b"no")
    options = [f"--run={run}", "--no-tte", "--top_k=2", "--unknown=0.5", "--sets=0.8"]
    found = lift_jax.Predictor(run, tte=False).predict(
        images[:6], 2, unknown=0.5, sets=0.8, all_probabilities=True
    )
    names = "\n".join(str(tmp_path / f"{i}.png") for i in range(6)) + f"\n\n{tmp_path}/torn.png\n"
    to, lines = tmp_path / "out" / "a.csv", tmp_path / "out" / "a.jsonl"
    for file in (to, lines):
        stdin = io.TextIOWrapper(io.BytesIO(names.encode()))
        monkeypatch.setattr(sys, "stdin", stdin)
        said = fails(capsys, "predict", *options, "-", f"--to={file}", "--probabilities=all")
        assert "1 of 7 images could not be read" in said
    rows = list(csv.DictReader(to.read_text().splitlines()))
    classes = json.loads((run / "config.json").read_text())["data_summary"]["class_names"]
    assert list(rows[0]) == [
        *("image", "class_1", "probability_1", "class_2", "probability_2", "error"),
        *("answer", "unknown", "set"), *(f"p_{name}" for name in classes),
    ]  # fmt: skip
    objects = [json.loads(line) for line in lines.read_text().splitlines()]
    for one, row, item in zip(found, rows, objects, strict=False):
        assert row["answer"] == item["answer"] == one.answer
        assert row["unknown"] == ("yes" if one.unknown else "no") and item["unknown"] == one.unknown
        assert json.loads(row["set"]) == item["set"] == list(one.prediction_set)
        assert item["classes"] == list(one.labels)
        every = [float(row[f"p_{name}"]) for name in classes]
        assert every == pytest.approx(one.all_probabilities, rel=1e-4)
        assert item["all_probabilities"] == pytest.approx(every)
    assert rows[6]["answer"] == "" == rows[6]["set"] and objects[6]["error"] == rows[6]["error"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    assert "no name of an image" in fails(capsys, "predict", f"--run={run}", "-")


def test_an_option_alone_takes_no_image(run, images, tmp_path, capsys):
    Image.fromarray(images[0]).save(tmp_path / "a.png")
    to = f"--to={tmp_path}/a.csv"
    run_command("predict", f"--run={run}", "--unknown", tmp_path / "a.png", to, "--sets")
    assert (tmp_path / "a.csv").read_text().startswith("image,class_1")
    assert "│ set " in capsys.readouterr().out.replace("┃", "│")


def test_images_are_sorted(run, images, tmp_path, capsys):
    for i, image in enumerate(images):
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / "in" / f"{i:02}.png")
    (tmp_path / "in" / "torn.png").write_bytes(b"no")
    options = [f"--run={run}", "--no-tte", tmp_path / "in", "--unknown=0.5"]
    found = lift_jax.Predictor(run, tte=False).predict(images, unknown=0.5)
    for _ in range(2):
        said = fails(capsys, "predict", *options, f"--sort-into={tmp_path}/out")
        assert "1 of 21 images could not be read" in said
        lying = sorted((path.name, path.parent.name) for path in (tmp_path / "out").rglob("*.png"))
        assert lying == [(f"{i:02}.png", one.answer) for i, one in enumerate(found)]
    said = fails(capsys, "predict", *options, f"--sort-into={tmp_path}/in/out")
    assert "Give a folder outside it" in said


def test_the_report_shows_it(run, tmp_path):
    page = report.write(run, tmp_path / "page").read_text()
    assert "Trust in answers" in page and "ECE before" in page
    content = json.loads((run / NAME).read_text())
    view = content["crops"] or content["one_crop"]
    area = view["unknown"]["auroc"][view["unknown"]["score"]]
    assert f"an area of {area:.2f} under the ROC curve" in " ".join(page.split())
    assert (tmp_path / "page" / "report_calibration.png").exists()
