"""Tests of what a report says, recomputed from the predictions that a run keeps."""

import base64
import hashlib
import json
import re
from collections import Counter

import numpy as np
import pytest
from reports.test_report import make_run
from support.answered_runs import answer, counts_of
from support.pages import Page

from lift_jax.evaluation import metrics
from lift_jax.reports import comparison, report
from lift_jax.reports.parts import changes_part
from lift_jax.runs import finished_run
from lift_jax.runs.kept import predictions, result_files
from lift_jax.storage import atomic

LABELS = {"zero_shot": "zero-shot", "test": "LIFT+", "test_tte": "LIFT+ with TTE"}


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """Returns the page of a made-up run of 40 classes, its predictions and its folder."""
    workdir = tmp_path_factory.mktemp("made") / "w"
    make_run(workdir, classes=40)
    kept = answer(workdir)
    return Page(report.write(workdir)), kept, workdir


def by_result(kept):
    """Returns (answered, confidence) of each result; the zero-shot confidence is not kept."""
    found = {key: (a.classes[:, 0], a.probabilities[:, 0]) for key, a in kept.answers.items()}
    return {"zero_shot": (kept.zero_shot, np.full(len(kept.labels), np.nan))} | found


def accuracies(kept, classes):
    """Returns the percentage of each class by result, counted anew."""
    found = {}
    for key, (answered, _) in by_result(kept).items():
        found[key] = [
            100 * np.mean(answered[kept.labels == c] == c) if (kept.labels == c).any() else np.nan
            for c in range(classes)
        ]
    return found


def text(value):
    return "–" if np.isnan(value) else f"{value:.2f}"


def signed(value):
    return f"{'−' if value < 0 else '+'}{abs(value):.2f}"


def test_the_results_follow_from_the_answers(shown):
    page, kept, workdir = shown
    train = finished_run.load(workdir).train_counts
    rows = {row[0]: row for row in page.tables[0][1][1:]}
    heads = page.tables[0][1][0]
    for key, (answered, confidence) in by_result(kept).items():
        known = np.nan_to_num(confidence, nan=0.5)
        expected = metrics.summarise(counts_of(kept.labels, answered, known, 40), train)
        for name, column in report.COLUMNS.items():
            if name == "ece" and np.isnan(confidence).any():
                continue
            value = expected[name]
            found = rows[LABELS[key]][heads.index(column)]
            assert found == (f"{value:,}" if name == "images" else text(value)), (key, name)


def test_the_classes_follow_from_the_answers(shown):
    page, kept, workdir = shown
    run, expected = finished_run.load(workdir), accuracies(kept, 40)
    rows = page.table("Accuracy of each class in percent")
    assert {row["class"] for row in rows} == set(run.names)
    values = [float(row["LIFT+ with TTE"].replace("–", "inf")) for row in rows]
    assert values == sorted(values)
    for row in rows:
        c = run.names.index(row["class"])
        for key, label in LABELS.items():
            assert row[label] == text(expected[key][c])
        change = expected["test_tte"][c] - expected["zero_shot"][c]
        assert row["gain on zero-shot"] == ("–" if np.isnan(change) else signed(change))
        assert row["train images"] == str(run.train_counts[c])
        assert row["test images"] == str((kept.labels == c).sum())


def test_gains_and_losses_follow_from_the_answers(shown):
    page, kept, workdir = shown
    run, expected = finished_run.load(workdir), accuracies(kept, 40)
    change = np.round(np.array(expected["test_tte"]) - expected["zero_shot"], 9)
    for caption, sign in (("Largest gains", 1), ("Largest losses", -1)):
        order = [c for c in np.argsort(-sign * np.nan_to_num(change), kind="stable")]
        order = [c for c in order if sign * change[c] > 0][:10]
        rows = page.table(caption)
        assert [row["class"] for row in rows] == [run.names[c] for c in order]
        assert [row["change"] for row in rows] == [signed(change[c]) for c in order]
        assert [row["before"] for row in rows] == [text(expected["zero_shot"][c]) for c in order]
        assert [row["after"] for row in rows] == [text(expected["test_tte"][c]) for c in order]
    better, worse = int((change > 0).sum()), int((change < 0).sum())
    said = " ".join(page.sections["changes"])
    assert changes_part.counted(np.zeros(2), np.array([1.0, 0.0]), "a", "b").startswith(
        "a is better than b for 1 class, worse for 0"
    )
    assert f"for {better} classes, worse for {worse} and equal for {39 - better - worse}" in said


def test_means_by_frequency_follow_from_the_answers(shown):
    page, kept, workdir = shown
    run, expected = finished_run.load(workdir), accuracies(kept, 40)
    rows = page.table("Mean accuracy by number of training images")
    assert sum(int(row["classes"]) for row in rows) == 39
    for row in rows:
        low, _, high = row["train images"].partition(" to ")
        inside = (run.train_counts >= int(low)) & (run.train_counts <= int(high or low))
        inside &= ~np.isnan(expected["test"])
        assert int(row["classes"]) == inside.sum()
        for key in ("zero_shot", "test_tte"):
            assert row[LABELS[key]] == text(np.mean(np.array(expected[key])[inside]))


def test_confused_pairs_follow_from_the_answers(shown):
    page, kept, workdir = shown
    names, (answered, _) = finished_run.load(workdir).names, by_result(kept)["test_tte"]
    wrong = Counter(
        (a, b) for a, b in zip(kept.labels.tolist(), answered.tolist(), strict=True) if a != b
    )
    together = Counter()
    for (a, b), n in wrong.items():
        together[min(a, b), max(a, b)] += n
    said = "\n".join(page.sections["pairs"])
    lines = re.findall(r"(\d+) of (\d+) images of (.*) \((.*)%\) are answered (.*)\.", said)
    counted = []
    for n, images, own, share, other in lines:
        a, b = names.index(own), names.index(other)
        assert int(n) == wrong[a, b] and int(images) == (kept.labels == a).sum()
        assert share == f"{100 * wrong[a, b] / (kept.labels == a).sum():.1f}"
        counted.append((min(a, b), max(a, b)))
    sums = [together[pair] for pair in dict.fromkeys(counted)]
    assert sums == sorted(together.values(), reverse=True)[:8]


def test_sure_mistakes_follow_from_the_answers(shown):
    page, kept, workdir = shown
    names, (answered, sure) = finished_run.load(workdir).names, by_result(kept)["test_tte"]
    wrong = np.flatnonzero(answered != kept.labels)
    order = wrong[np.argsort(-sure[wrong], kind="stable")][:12]
    alts = [a["alt"] for tag, a in page.elements if tag == "img" and "answered" in a["alt"]]
    alts = [alt for alt in alts if "labelled" in alt]
    assert len(alts) == len(order) == 12
    for alt, i in zip(alts, order, strict=True):
        assert alt == (
            f"test image folder <test/{kept.rows[i]}>.jpg: answered {names[answered[i]]}, "
            f"{sure[i]:.1%}, labelled {names[kept.labels[i]]}"
        )


def test_doubtful_labels_follow_from_the_answers(shown):
    """Recomputed image by image: thresholds are means of what images give their own label."""
    page, kept, workdir = shown
    names, one = finished_run.load(workdir).names, kept.answers["test_tte"]
    thresholds = {c: one.label[kept.labels == c].mean() for c in set(kept.labels.tolist())}
    found = {}
    for i, label in enumerate(kept.labels.tolist()):
        reached = [
            (p, c) for p, c in zip(one.probabilities[i], one.classes[i].tolist(), strict=True)
            if c != label and p >= thresholds.get(c, np.inf)
        ]  # fmt: skip
        if reached and max(reached)[0] - one.label[i] >= 0.25:
            found[i] = max(reached)
    said = " ".join(page.sections["labels"])
    assert f"{len(found)} of {len(kept.labels)} labels are doubtful, judged by the answers" in said
    assert "2 of 100 labels are doubtful, judged by the labels of the training images" in said
    order = sorted(found, key=lambda i: (one.label[i] - found[i][0], i))[:12]
    alts = [a["alt"] for tag, a in page.elements if tag == "img" and "?" in a["alt"]]
    assert alts[:2] == [
        f"training image folder <train/{row}>.jpg: {names[new]}?, {sure}, labelled {names[old]}, "
        f"{own}"
        for row, new, sure, old, own in ((4, 1, "87.5%", 0, "6.2%"), (5, 0, "75.0%", 1, "12.5%"))
    ]
    assert alts[2:] == [
        f"test image folder <test/{kept.rows[i]}>.jpg: {names[found[i][1]]}?, {found[i][0]:.1%}, "
        f"labelled {names[kept.labels[i]]}, {one.label[i]:.1%}"
        for i in order
    ]


# -- the page


def test_the_page_can_be_read_without_a_mouse_or_eyes(shown):
    page, _, workdir = shown
    assert all(a["scope"] in ("col", "row") for tag, a in page.elements if tag == "th")
    assert all(caption for caption, _ in page.tables)
    assert all(a["alt"] for tag, a in page.elements if tag == "img")
    scrolls = [a for tag, a in page.elements if "scroll" in a.get("class", "").split()]
    assert scrolls and all(a["tabindex"] == "0" and a["aria-label"] for a in scrolls)
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    links = [a["href"] for tag, a in page.elements if tag == "a"]
    assert links[0] == "#main" and all(link[1:] in ids for link in links)
    html = (workdir / "report.html").read_text()
    assert "aria-sort=ascending" in html and ":focus-visible" in html and "@media print" in html


def test_the_page_runs_its_own_script_alone(shown):
    page, _, workdir = shown
    ((_, code),) = page.scripts
    checksum = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    (policy,) = [a["content"] for tag, a in page.elements if "http-equiv" in a]
    allowed = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    assert policy.startswith(f"{allowed}script-src 'sha256-{checksum}'; ")
    assert not re.search(
        r"https?:|url\(|@import|fetch\(|eval\(", (workdir / "report.html").read_text()
    )
    assert all(a["src"].startswith("data:image/") for _, a in page.elements if "src" in a)


@pytest.mark.slow
def test_thousands_of_classes_are_data_of_the_page(tmp_path):
    """8,142 classes, of which one ends the script and another is live text."""
    make_run(tmp_path / "w", classes=8142)
    about = json.loads((tmp_path / "w" / "config.json").read_text())
    names = about["data_summary"]["class_names"]
    hostile = ["</script><img src=x onerror=alert(1)>", "=1+2", "a\rb\u202ec", "<!--<script>"]
    names[:4] = hostile
    (tmp_path / "w" / "config.json").write_text(json.dumps(about))
    answer(tmp_path / "w", each=3)
    path = report.write(tmp_path / "w")
    page = Page(path)
    (attributes, data), (_, code) = page.scripts
    assert attributes == {"type": "application/json", "id": "class-data"} and "<" not in data
    rows = json.loads(data)
    assert len(rows) == 8142
    by_name = {row[0]: row for row in rows}
    assert by_name.keys() >= {hostile[0], "=1+2", "a\\rb\\u202ec", "<!--<script>"}
    expected = accuracies(predictions.read(tmp_path / "w"), 8142)
    run = finished_run.load(tmp_path / "w")
    for c in (5, 77, 4000, 8141):
        assert by_name[run.names[c]][1] == text(expected["test_tte"][c])
    assert len(page.table("Accuracy of each class in percent")) == 50
    assert "noscript" in [tag for tag, _ in page.elements]
    assert not any("onerror" in a for _, a in page.elements)
    assert path.stat().st_size < 5_000_000


def test_a_run_from_before_says_how_to_get_the_rest(tmp_path):
    make_run(tmp_path / "w")
    page = Page(report.write(tmp_path / "w"))
    assert page.sections["answers"] == [
        "Single answers",
        "This run keeps no answers to single images. The run's command with --mode=evaluate writes "
        "all kept files again.",
    ]
    assert "pairs" not in page.sections


NO_SPLIT = (
    "Not calibrated: there is no validation split, and the test split must not calibrate. Train "
    "with --config.data.val_share=0.1, which holds that share of the training images out."
)
COMMAND = "`lift-jax calibrate --run={}`"


@pytest.mark.parametrize(
    "metrics_more, data_more, sealed, damaged, expected",
    [
        ({}, {}, True, False, NO_SPLIT),
        ({}, {"val_share": 0.0, "val_list": ""}, True, False, NO_SPLIT),
        ({}, {"val_share": 0.1}, True, False,
         f"Not calibrated; {COMMAND} does it by the validation split."),
        ({"validation": {"test": 1.0, "test_tte": 2.0}}, {}, True, False,
         f"Not calibrated; {COMMAND} does it by the validation split."),
        ({}, {}, False, False,
         f"Not calibrated; {COMMAND} does it where the data have a validation split."),
        ({}, {"val_share": 0.1}, True, True,
         f"calibration.json is not what the run wrote; {COMMAND} replaces it."),
        ({"test": None, "test_tte": None}, {}, True, False, None),
    ],
)  # fmt: skip
def test_a_run_without_calibration_says_why(
    tmp_path, metrics_more, data_more, sealed, damaged, expected
):
    w = tmp_path / "w"
    make_run(w, results=("zero_shot",) if "test" in metrics_more else ("zero_shot", "test"))
    for name, more in (("metrics.json", metrics_more), ("config.json", {"data": data_more})):
        content = json.loads((w / name).read_text())
        if name == "config.json":
            more = {"data": content["data"] | data_more}
        atomic.write_json(w / name, content | more)
    if damaged:
        (w / "calibration.json").write_text("{}")
    if sealed:
        result_files.seal(w)
    sections = Page(report.write(w)).sections
    if expected is None:
        assert "trust" not in sections
    else:
        assert sections["trust"] == ["Trust in answers", expected.format(w)]


@pytest.mark.parametrize("name", ["predictions.safetensors", "examples.safetensors"])
def test_a_damaged_file_is_a_line(tmp_path, capsys, name):
    make_run(tmp_path / "w")
    answer(tmp_path / "w")
    path = tmp_path / "w" / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    page = Page(report.write(tmp_path / "w"))
    (line,) = capsys.readouterr().err.splitlines()
    assert name in line and "is not what the run wrote" in line
    assert ("pairs" in page.sections) == name.startswith("examples")


def test_answers_of_other_classes_are_not_shown(tmp_path):
    make_run(tmp_path / "w", classes=40)
    answer(tmp_path / "w")
    make_run(tmp_path / "v", classes=5)
    for name in ("predictions.safetensors", "examples.safetensors"):
        (tmp_path / "w" / name).rename(tmp_path / "v" / name)
    assert "pairs" not in Page(report.write(tmp_path / "v")).sections


def test_runs_are_compared_by_class(tmp_path):
    for i, name in enumerate("ab"):
        make_run(tmp_path / name, classes=30)
        answer(tmp_path / name, seed=i)
    make_run(tmp_path / "c", classes=5)
    path = comparison.compare([tmp_path / name for name in "abc"], tmp_path / "out")
    page = Page(path)
    first, second = (accuracies(predictions.read(tmp_path / name), 30)["test_tte"] for name in "ab")
    change = np.array(second) - first
    names = finished_run.load(tmp_path / "a").names
    best = int(np.nanargmax(change))
    row = page.table("Largest gains")[0]
    assert (row["class"], row["change"]) == (names[best], signed(change[best]))
    assert (row["a"], row["b"]) == (f"{first[best]:.2f}", f"{second[best]:.2f}")
    assert page.table("Largest losses")[0]["change"] == signed(np.nanmin(change))
    assert "With other classes than a, and so not compared by class: c." in path.read_text()
    assert (tmp_path / "out" / "report_compare_frequency.png").exists()
