"""Reports of made-up run folders: complete, self-contained, and clear about broken files."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from support.commands import run_command

from lift_jax.errors import UserError
from lift_jax.evaluation import metrics
from lift_jax.reports import report
from lift_jax.runs import log
from lift_jax.storage import atomic
from lift_jax.training.monitor import StepRecord


def make_run(workdir, classes=5, results=("zero_shot", "test", "test_tte"), steps=7, seed=0):
    """Writes the files of a finished run, with class 1 lacking test images."""
    rng = np.random.default_rng(seed)
    train = np.linspace(307, 2, classes).astype(int)
    total = np.full(classes, 13)
    total[1] = 0
    names = [f"kind <{c}> & $x^{c}$" for c in range(classes)]
    found, accuracy = {}, {}
    for key in ("zero_shot", "test", "test_tte"):
        if key not in results:
            found[key] = accuracy[key] = None
            continue
        correct = rng.binomial(total, 0.7)
        counts = {
            "correct": correct,
            "total": total,
            "predicted": total,
            "bin_total": np.zeros(10, int),
            "bin_correct": np.zeros(10, int),
            "bin_confidence": np.full(10, 0.1),
        }
        found[key] = metrics.summarise(counts, train)
        accuracy[key] = metrics.class_accuracy(counts)
    found |= {"tuned_params": 10136, "head_params": 500, "frozen_params": 90000}
    found |= {"steps": steps, "seconds": 3725.0, "images_per_second": 811.6}
    config = {
        "seed": 0,
        "label": "LIFT+",
        "data": {"name": "folder", "root": "<pictures>"},
        "model": {"backbone": "demo"},
        "tuner": {"name": "adaptformer"},
        "loss": {"name": "la", "tau": 1.0},
        "data_summary": {"class_names": names, "counts": train.tolist()},
    }
    workdir.mkdir()
    atomic.write_json(workdir / "config.json", config)
    atomic.write_json(workdir / "metrics.json", found)
    groups = metrics.groups(train)
    rows = [
        [c, names[c], train[c], next(g for g in groups if groups[g][c]), total[c]]
        + [None if accuracy[key] is None else float(accuracy[key][c]) for key in accuracy]
        for c in range(classes)
    ]
    header = ["class", "name", "train_images", "group", "test_images", *accuracy]
    atomic.write_csv(workdir / "per_class.csv", header, rows)
    if steps:
        with log.RunLog(workdir, active=True) as run:
            for n in range(1, steps + 1):
                run.write(StepRecord(n, 0, 2.0 / n, 0.02, 811.6, 0.25, 1.5 * n))
    return found


class Page(HTMLParser):
    """The texts of a page, its sections, and everything that it points to."""

    def __init__(self, path):
        super().__init__()
        self.texts, self.links = [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.links += [values[key] for key in ("src", "href") if key in values]

    def handle_data(self, data):
        self.texts.append(data.strip())


def test_a_report_is_complete_and_stands_alone(tmp_path):
    found = make_run(tmp_path / "w")
    path = report.write(tmp_path / "w")
    assert path == tmp_path / "w" / "report.html"
    page = Page(path)
    for key in ("zero_shot", "test", "test_tte"):
        for name in ("overall", "many", "medium", "few", "hmean", "macro_f1", "ece"):
            assert f"{found[key][name]:.2f}" in page.texts, (key, name)
    for text in (
        *("zero-shot", "LIFT+", "LIFT+ with TTE", "folder · demo · adaptformer · la"),
        *("kind <4> & $x^4$", "Without a test image, so in no class mean: kind <1> & $x^1$."),
        *("10,136 (10.07% of all)", "90,000", "1 h 02 min", "812", "<pictures>", "backbone"),
        "25% of the time: prepare the images (--prepare), or raise data.workers",
    ):
        assert text in page.texts, text
    assert len(page.links) == 2 and all(s.startswith("data:image/png;base64,") for s in page.links)
    assert not re.search(r"url\(|@import|<script|https?:", path.read_text())
    for name in ("report_classes.png", "report_training.png"):
        with Image.open(tmp_path / "w" / name) as image:
            image.load()
            assert image.width >= 1200


@pytest.mark.parametrize("classes", [2, 31, 1201])
def test_any_number_of_classes(tmp_path, classes):
    make_run(tmp_path / "w", classes=classes, results=("zero_shot", "test"), steps=101)
    report.write(tmp_path / "w")
    assert "LIFT+ with TTE" not in Page(tmp_path / "w" / "report.html").texts


def test_a_zero_shot_run_has_no_training(tmp_path):
    make_run(tmp_path / "w", results=("zero_shot",), steps=0)
    page = Page(report.write(tmp_path / "w"))
    assert "Training" not in page.texts and "Steps" not in page.texts
    assert not (tmp_path / "w" / "report_training.png").exists()


def test_several_runs_are_compared(tmp_path, capsys):
    first = make_run(tmp_path / "a", seed=1)
    second = make_run(tmp_path / "b", seed=2, results=("zero_shot", "test"))
    run_command("report", str(tmp_path / "a"), str(tmp_path / "b"))
    page = Page(tmp_path / "a" / "report_compare.html")
    assert "a: LIFT+ with TTE" in page.texts and "b: LIFT+" in page.texts
    for value in (first["test_tte"]["overall"], second["test"]["few"]):
        assert f"{value:.2f}" in page.texts
    assert (tmp_path / "a" / "report_compare.png").exists()
    assert (tmp_path / "b" / "report.html").exists()
    assert capsys.readouterr().out.splitlines() == [
        str(tmp_path / "a" / "report.html"),
        str(tmp_path / "b" / "report.html"),
        str(tmp_path / "a" / "report_compare.html"),
    ]
    run_command(
        "report", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "c" / "d")
    )
    assert (tmp_path / "c" / "d" / "report_compare.html").exists()
    with pytest.raises(UserError, match="--out"):
        report.compare([tmp_path / "a", tmp_path / "b"], tmp_path / "a" / "config.json")


def test_runs_of_the_same_folder_name_stay_apart(tmp_path):
    for parent in ("x", "y"):
        (tmp_path / parent).mkdir()
        make_run(tmp_path / parent / "w", results=("zero_shot",), steps=0)
    page = Page(report.compare([tmp_path / "x" / "w", tmp_path / "y" / "w"], tmp_path))
    assert f"{tmp_path / 'x' / 'w'}: zero-shot" in page.texts
    assert f"{tmp_path / 'y' / 'w'}: zero-shot" in page.texts


def edit(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


@pytest.mark.parametrize(
    "name, damage, message",
    [
        ("config.json", lambda p: p.unlink(), "cannot read: No such file"),
        ("config.json", lambda p: p.write_text("{"), "expected JSON"),
        ("config.json", lambda p: p.write_text("[]"), "expected a JSON object"),
        ("config.json", lambda p: edit(p, lambda v: v.pop("data_summary")), "data_summary"),
        ("config.json", lambda p: edit(p, lambda v: v["tuner"].clear()), "tuner.name"),
        ("metrics.json", lambda p: p.unlink(), "cannot read"),
        ("metrics.json", lambda p: edit(p, lambda v: v.pop("seconds")), "seconds"),
        ("metrics.json", lambda p: edit(p, lambda v: v["test"].pop("few")), "few in test"),
        (
            "metrics.json",
            lambda p: edit(p, lambda v: v.update(zero_shot=None, test=None, test_tte=None)),
            "at least one result",
        ),
        ("per_class.csv", lambda p: p.unlink(), "cannot read"),
        ("per_class.csv", lambda p: p.write_text("a,b\n"), "expected the columns .*found a, b"),
        ("per_class.csv", lambda p: p.write_text(p.read_text()[:-1]), None),
        (
            "per_class.csv",
            lambda p: p.write_text(p.read_text().rsplit("\n", 2)[0]),
            "expected 5 classes .*found 4",
        ),
        (
            "per_class.csv",
            lambda p: p.write_text(p.read_text().replace(",many,", ",lots,")),
            "line 2 is broken",
        ),
        (
            "per_class.csv",
            lambda p: p.write_text(p.read_text().replace(",307,", ",x,")),
            "expected numbers",
        ),
        ("log.jsonl", lambda p: p.unlink(), "cannot read the training log"),
        ("log.jsonl", lambda p: p.write_text("?\n" + p.read_text()), "line 1"),
    ],
)
def test_broken_files_are_named(tmp_path, name, damage, message):
    make_run(tmp_path / "w")
    damage(tmp_path / "w" / name)
    if message is None:
        report.write(tmp_path / "w")
        return
    with pytest.raises(UserError, match=f"{name}: .*{message}"):
        report.write(tmp_path / "w")


def test_the_command_prints_mistakes_without_a_trace(tmp_path, capsys):
    with pytest.raises(SystemExit) as status:
        run_command("report", str(tmp_path / "nowhere"))
    assert status.value.code == 2
    assert re.match("error: .*nowhere: expected a run folder", capsys.readouterr().err)
