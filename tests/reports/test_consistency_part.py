"""Tests of what a report says about classes in training and test, before and after tuning."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from lift_jax.reports.parts import consistency_comparison, consistency_part
from lift_jax.reports.parts.consistency_part import ABSENT, ADVICE, NOTE, verdict
from lift_jax.runs.finished_run import Run
from lift_jax.runs.kept import features, kept_file

COLLAPSED = "tuning pulled the training images together but not the test images"
CLASSES = 6  # two of each group


def make_run(workdir, tuned=True, spread=(1.0, 0.2), test=1.0, each=3):
    """Writes features of a run; `spread` is that of training images before and after tuning."""
    workdir.mkdir()
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(CLASSES, dtype=np.int32), each)
    centres, noise = 3 * rng.normal(size=(CLASSES, 8)), rng.normal(size=(2, len(labels), 8))
    arrays = {"train_names": np.frombuffer(json.dumps([]).encode(), np.uint8)}
    for name, own in (("train", spread), ("test", (1.0, test))):
        arrays |= {f"{name}_labels": labels, f"{name}_rows": np.arange(len(labels), dtype=np.int32)}
        for state, scale in zip(("before", "after"), own, strict=True):
            if tuned or state == "after":
                values = centres[labels] + scale * noise[int(name == "test")]
                arrays[f"{name}_{state}"] = values.astype(np.float16)
    about = {"version": features.VERSION, "tuned": str(tuned), "weights": "7"}
    kept_file.write(workdir / features.NAME, arrays, about)
    groups = [group for group in ("many", "medium", "few") for _ in range(2)]
    counts = np.array([300, 200, 50, 40, 10, 3])
    names = [f"kind {c}" for c in range(CLASSES)]
    return Run(workdir, {}, {}, [], names, groups, counts, counts, {})


@pytest.mark.parametrize(("before", "after", "tuned", "expected"), [
    ((0.35, 0.40), (0.21, 0.48), True, COLLAPSED),
    ((0.35, 0.40), (0.21, 0.37), True, COLLAPSED),  # 0.37 is more than 0.9 of 0.40
    ((0.35, 0.40), (0.10, 0.20), True, COLLAPSED.replace("but not", "more than")),
    ((0.20, 0.20), (0.22, 0.40), True,
     "tuning moved the test images away from the training images"),
    ((0.20, 0.30), (0.20, 0.30), True,
     "the test images differ from the training images, and did so before tuning"),
    ((0.40, 0.42), (0.30, 0.31), True, "tuning pulled both together alike"),
    ((0.40, 0.42), (0.40, 0.42), True, "they stayed alike"),
    ((0.40, 0.42), (0.45, 0.50), True, "they stayed alike"),
    ((0.20, 0.20), (0.20, 0.24), True, "they stayed alike"),  # a fifth further
    ((0.20, 0.20), (0.20, 0.25), True,
     "tuning moved the test images away from the training images"),
    ((0.40, 0.42), (0.40, 0.42), False, "they are alike"),
    ((0.20, 0.30), (0.20, 0.30), False, "they differ already"),
    ((0.0, 0.0), (0.0, 0.0), True, "they stayed alike"),
])  # fmt: skip
def test_the_end_of_a_sentence(before, after, tuned, expected):
    states = [dict(zip(("train", "test"), each, strict=True)) for each in (before, after)]
    assert verdict(*states, tuned) == expected


def test_a_collapse_is_told_with_what_to_do(tmp_path):
    run = make_run(tmp_path / "run", test=1.2)
    part = consistency_part.part(run, tmp_path)
    measured = consistency_part.measure(run)
    few = measured.numbers["few"]
    assert [line.split(" ")[0] for line in part.sentences[:3]] == [
        "Many-shot", "Medium-shot", "Few-shot"
    ]  # fmt: skip
    assert part.sentences[2] == (
        f"Few-shot classes: training images lie {few['after']['train']:.2f} from the mean of their "
        f"class, test images {few['after']['test']:.2f}; before tuning "
        f"{few['before']['train']:.2f} and {few['before']['test']:.2f}: {COLLAPSED}."
    )
    assert part.sentences[3:] == [ADVICE] and part.note == NOTE
    groups, rows = ("many", "medium", "few", "all"), dict(part.table.rows)
    assert list(rows) == [f"{g}, {state} tuning" for g in groups for state in ("before", "after")]
    assert part.table.headings == ["distance", "training", "test", "gap", "alike"]
    assert rows["few, after tuning"][2] == (f"{few['after']['gap']:.3f}", False)
    for name in ("report_similarity.png", "report_distances.png"):
        with Image.open(tmp_path / name) as drawn:
            assert drawn.width > 600


def test_no_alarm_if_classes_stay_as_they_are(tmp_path):
    part = consistency_part.part(make_run(tmp_path / "run", spread=(1.0, 1.0)), tmp_path)
    assert len(part.sentences) == 3 and ADVICE not in part.sentences


def test_a_classifier_alone_has_one_state(tmp_path):
    part = consistency_part.part(make_run(tmp_path / "run", tuned=False), tmp_path)
    assert not any("tuning" in line for line in part.sentences)
    assert [name for name, _ in part.table.rows] == ["many", "medium", "few", "all"]


def test_features_that_fell_into_one_place(tmp_path):
    """A loss that ran away leaves the same feature for all images, nearly."""
    run = make_run(tmp_path / "run")
    found = features.read(run.workdir)
    stored = kept_file.read(run.workdir / features.NAME)
    assert found is not None and stored is not None
    arrays, about = stored
    arrays |= {"train_after": found.after / 99 + np.float16(1), "test_after": found.test_after / 99}
    kept_file.write(run.workdir / features.NAME, arrays, about)
    part = consistency_part.part(run, tmp_path)
    assert "All classes lie in one place: the cosine of their means is 1.00" in part.sentences[-1]


def test_a_class_with_one_image_has_no_distance(tmp_path):
    part = consistency_part.part(make_run(tmp_path / "run", each=1), tmp_path)
    assert part.sentences == [
        "No class has two training images and a test image: no distance is known."
    ]
    assert len(part.figures) == 1 and part.table.rows[0][1][0] == ("–", False)


def test_a_run_without_features_says_so(tmp_path):
    run = make_run(tmp_path / "run")
    path = run.workdir / features.NAME
    path.write_bytes(path.read_bytes()[:-1])
    damaged = consistency_part.part(run, tmp_path)
    assert "is not what lift_jax wrote" in damaged.note and not damaged.figures
    path.unlink()
    assert consistency_part.part(run, tmp_path).note == ABSENT


def test_runs_beside_each_other(tmp_path):
    heavy, light = make_run(tmp_path / "heavy"), make_run(tmp_path / "light", spread=(1.0, 1.0))
    none = Run(tmp_path, {}, {}, [], light.names, light.groups, *[light.train_counts] * 2, {})
    part = consistency_comparison.part({"heavy": heavy, "light": light, "none": none}, tmp_path)
    table = part.table
    assert [line[:23] for line in part.sentences] == [
        "heavy: Few-shot classes", "light: Few-shot classes"
    ]  # fmt: skip
    assert COLLAPSED[:42] in part.sentences[0] and "stayed alike" in part.sentences[1]
    assert len(part.figures) == 2 and (tmp_path / "report_compare_distances.png").exists()
    assert table.headings == ["gap", "many", "medium", "few", "all"]
    marked = {name: [best for _, best in cells] for name, cells in table.rows}
    assert marked == {
        "heavy, before tuning": [False] * 4, "heavy, after tuning": [False] * 4,
        "light, before tuning": [False] * 4, "light, after tuning": [True] * 4,
    }  # fmt: skip
    assert consistency_comparison.part({"none": none}, tmp_path) is None


def test_runs_of_other_classes_are_not_drawn_together(tmp_path):
    runs = {name: make_run(tmp_path / name) for name in ("a", "b")}
    runs["b"] = replace(runs["b"], names=[f"other {c}" for c in range(CLASSES)])
    part = consistency_comparison.part(runs, tmp_path)
    assert len(part.table.rows) == 4 and not part.figures


@pytest.mark.parametrize(("kinds", "states"), [
    ((True, True), ["before tuning", "0", "1"]),
    ((False, True), ["0", "1"]),  # the classifier alone is the backbone before tuning
])  # fmt: skip
def test_the_backbone_is_drawn_once(tmp_path, monkeypatch, kinds, states):
    drawn = []
    monkeypatch.setattr(consistency_part, "draw", lambda found, *_: drawn.extend(found) or {})
    runs = {str(i): make_run(tmp_path / str(i), tuned) for i, tuned in enumerate(kinds)}
    consistency_comparison.part(runs, tmp_path)
    assert drawn == states
