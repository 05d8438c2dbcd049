"""Tests of reports of made-up run folders: complete, self-contained, and clear about damage."""

import errno
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from support.commands import run_command

from lift_jax.errors import UserError
from lift_jax.evaluation import metrics
from lift_jax.evaluation.insight import class_changes
from lift_jax.reports import comparison, figure_file, report
from lift_jax.reports.figures.by_class import class_figure, frequency_figure
from lift_jax.reports.figures.by_images import accuracy_figure
from lift_jax.runs import log
from lift_jax.storage import atomic
from lift_jax.storage.formats.csv_files import write_csv
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
    write_csv(workdir / "per_class.csv", header, rows)
    if steps:
        with log.RunLog(workdir, active=True) as run:
            for n in range(1, steps + 1):
                run.write(StepRecord(n, 0, 2.0 / n, 0.02, 811.6, 0.25, 1.5 * n))
    return found


class Page(HTMLParser):
    """The texts of a page, its links, and the elements around its tables and images."""

    def __init__(self, path):
        super().__init__()
        self.texts, self.links, self.metas = [], [], []
        self.open, self.boxes, self.styles = [], [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.links += [values[key] for key in ("src", "href") if key in values]
        if "photo" in self.open[-1:]:
            return
        if tag == "meta":
            self.metas.append(values)
        if tag in ("table", "img"):
            self.boxes.append((tag, self.open[-1] if self.open else ""))
        if tag in ("div", "section", "style"):
            self.open.append(values.get("class", tag))

    def handle_endtag(self, tag):
        if tag in ("div", "section", "style"):
            self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] == "style":
            self.styles.append(data)
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
    outside = [link for link in page.links if not link.startswith("#")]
    assert len(outside) == 3 and all(s.startswith("data:image/png;base64,") for s in outside)
    assert not re.search(r"url\(|@import|https?:|fetch\(|XMLHttpRequest|import\(", path.read_text())
    for name in ("report_classes.png", "report_frequency.png", "report_training.png"):
        with Image.open(tmp_path / "w" / name) as image:
            image.load()
            assert image.width >= 1200


def test_the_report_of_a_single_run_goes_where_it_is_told(tmp_path, capsys):
    make_run(tmp_path / "w")
    before = sorted((tmp_path / "w").iterdir())
    run_command("report", tmp_path / "w", "--out", tmp_path / "c")
    assert capsys.readouterr().out == f"{tmp_path / 'c' / 'report.html'}\n"
    assert sorted((tmp_path / "w").iterdir()) == before
    written = sorted(path.name for path in (tmp_path / "c").iterdir())
    figures = ["report_classes.png", "report_frequency.png", "report_training.png"]
    assert written == ["report.html", *figures]


def test_a_read_only_run_folder_names_the_way_out(tmp_path, monkeypatch):
    make_run(tmp_path / "w")

    def refused(folder):
        raise OSError(errno.EROFS, "Read-only file system", str(folder))

    monkeypatch.setattr(report.lock, "one_writer", refused)
    with pytest.raises(UserError) as error:
        report.write(tmp_path / "w")
    assert "Read-only file system" in str(error.value)
    way_out = f"`lift-jax report {tmp_path / 'w'}` writes the report, with --out=FOLDER to another"
    assert way_out in str(error.value)


def widths(rule):
    """Returns the lengths in pixels that make what a CSS rule is for at least so wide."""
    lengths = re.findall(r"(?<![\w-])(?:width|min-width|columns|minmax)\W+([\d.]+)(rem|px)", rule)
    return [float(value) * {"rem": 16, "px": 1}[unit] for value, unit in lengths]


def pages(tmp_path):
    """Returns the report of a run and the comparison of two."""
    for name in ("a", "b"):
        make_run(tmp_path / name)
    return [
        Page(report.write(tmp_path / "a")),
        Page(comparison.compare([tmp_path / "a", tmp_path / "b"], tmp_path)),
    ]


def test_a_page_fits_a_phone(tmp_path):
    """Every table and figure scrolls in its own box; no rule makes anything else over 360 px."""
    for page in pages(tmp_path):
        viewport = [meta["content"] for meta in page.metas if meta.get("name") == "viewport"]
        assert viewport == ["width=device-width, initial-scale=1"]
        assert {tag for tag, _ in page.boxes} == {"table", "img"}
        assert {box.split()[0] for _, box in page.boxes} == {"scroll"}, page.boxes
        assert not page.open  # every box is closed
        style = "".join(page.styles)
        rules = re.findall(r"([^{}]+)\{([^{}]*)\}", style)
        assert any(name.strip() == ".scroll" and "overflow-x: auto" in body for name, body in rules)
        for name, body in rules:
            assert ".scroll " in name or max(widths(body), default=0) <= 360, (name, body)


def test_widths_are_read_from_a_style():
    assert widths("min-width: 30rem; max-width: 64rem; border: 1px solid") == [480.0]
    assert widths("grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr))") == [176.0]
    assert widths("width: 100%; columns: 18rem; overflow-x: 500px") == [288.0]


def luminance(colour):
    """Returns the relative luminance of #rgb or #rrggbb, as WCAG 2.1 defines it."""
    digits = colour.lstrip("#")
    digits = "".join(2 * d for d in digits) if len(digits) == 3 else digits
    channels = np.array([int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def contrast(a, b):
    dark, light = sorted((luminance(a), luminance(b)))
    return (light + 0.05) / (dark + 0.05)


def test_a_page_is_readable_in_light_and_dark_mode(tmp_path):
    """Texts have the contrast of WCAG's level AA (4.5), and figures turn with the mode."""
    style = "".join(pages(tmp_path)[0].styles)
    light, dark = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    assert style.index("@media (prefers-color-scheme: dark)") < style.index(dark)
    colours = [dict(re.findall(r"--(\w+): (#\w+)", rule)) for rule in (light, dark)]
    assert colours[0].keys() == colours[1].keys()
    for mode in colours:
        for text in ("text", "muted", "link"):
            for ground in ("page", "card"):
                assert contrast(mode[text], mode[ground]) >= 4.5, (text, ground)
    assert luminance(colours[0]["page"]) > 0.8 and luminance(colours[1]["page"]) < 0.02
    rest = style.replace(light, "").replace(dark, "")
    assert re.findall(r"#[0-9a-f]{3,6}\b", rest) == []  # all colours are the modes'
    turned = ".figure img { filter: invert(1) hue-rotate(180deg); mix-blend-mode: screen; }"
    assert turned in style.partition("prefers-color-scheme: dark")[2].partition("body {")[0]


@pytest.mark.parametrize("counts", [[10, 10, 10], [7], [3, 4], []])
def test_classes_of_one_size_have_a_figure_by_number_of_images(counts):
    counts, accuracy = np.array(counts, int), np.full(len(counts), 50.0)
    names = [f"c{i}" for i in range(len(counts))]
    lines = {"test": (class_changes.bands(counts, accuracy), "test")}
    figure = accuracy_figure(lines, counts, accuracy, names)  # warnings are errors here
    left, right = figure.axes[0].get_xlim()
    assert all(left < count < right for count in counts)


def test_a_figure_that_goes_on_beside_the_screen_says_so(tmp_path):
    """The shadow of a box lies behind its content: figures let it through, no rule covers it."""
    style = "".join(pages(tmp_path)[0].styles)
    assert ".figure img { mix-blend-mode: multiply; }" in style
    assert not re.search(r"\.figure \{[^}]*background", style)


# -- the headline


def headline_run(workdir, *, one_crop, ensemble, validation=None, adjusted=False):
    """Writes a run with these means over the classes on the test and the validation split."""
    make_run(workdir)
    path = workdir / "metrics.json"
    value = json.loads(path.read_text())
    value["test"] |= {"mean": one_crop, "overall": one_crop, "few": one_crop}
    value["test_tte"] |= {"mean": ensemble, "overall": ensemble, "few": ensemble}
    if adjusted:
        value |= {f"{key}_adjusted": value[key] for key in ("test", "test_tte")}
        table = workdir / "per_class.csv"
        lines = [line.split(",") for line in table.read_text().splitlines()]
        lines = [[*row[:-2], row[-2], row[-2], row[-1], row[-1]] for row in lines]
        lines[0][-4:] = ["test", "test_adjusted", "test_tte", "test_tte_adjusted"]
        table.write_text("".join(",".join(row) + "\n" for row in lines))
    if validation is not None:
        value["validation"] = dict(zip(("test", "test_tte"), validation, strict=True))
    path.write_text(json.dumps(value))


def card(page):
    """Returns the first card: its value and what it is."""
    place = next(i for i, text in enumerate(page.texts) if text.startswith("overall, "))
    return page.texts[place - 1], page.texts[place]


@pytest.mark.parametrize(
    ("test", "validation", "shown", "notes"),
    [  # (one crop, ensemble) on each split
        ((70.0, 75.0), None, ("75.00 %", "overall, LIFT+ with TTE"), []),
        ((75.0, 75.0), None, ("75.00 %", "overall, LIFT+ with TTE"), []),
        ((75.0, 70.0), None, ("70.00 %", "overall, LIFT+ with TTE"),
         ["On the test split", "(70.00 against 75.00 %", "A validation split would decide"]),
        ((70.0, 75.0), (61.0, 62.0), ("75.00 %", "overall, LIFT+ with TTE"), []),
        ((75.0, 70.0), (61.0, 62.0), ("70.00 %", "overall, LIFT+ with TTE"), []),
        ((75.0, 70.0), (62.0, 62.0), ("70.00 %", "overall, LIFT+ with TTE"), []),
        ((70.0, 75.0), (62.0, 61.0), ("70.00 %", "overall, LIFT+"),
         ["The headline is that of one crop", "on the validation split", "(61.00 against 62.00 %"]),
    ],
)  # fmt: skip
def test_the_validation_split_chooses_the_headline(tmp_path, test, validation, shown, notes):
    headline_run(tmp_path / "w", one_crop=test[0], ensemble=test[1], validation=validation)
    page = Page(report.write(tmp_path / "w"))
    assert card(page) == shown
    said = [
        text for text in page.texts if "test-time ensemble does worse" in text.replace("\n", " ")
    ]
    assert len(said) == bool(notes)
    for words in notes:
        assert words in said[0]


def test_the_headline_of_adjusted_results(tmp_path):
    headline_run(
        tmp_path / "w", one_crop=70.0, ensemble=75.0, validation=(62.0, 61.0), adjusted=True
    )
    assert card(Page(report.write(tmp_path / "w"))) == ("70.00 %", "overall, LIFT+, adjusted")


def test_the_headline_is_what_runs_are_compared_by(tmp_path, monkeypatch):
    headline_run(tmp_path / "a", one_crop=70.0, ensemble=75.0, validation=(62.0, 61.0))
    headline_run(tmp_path / "b", one_crop=70.0, ensemble=75.0)
    drawn, draw = [], comparison.comparison_figure
    monkeypatch.setattr(
        comparison, "comparison_figure", lambda bars: drawn.append(bars) or draw(bars)
    )
    comparison.compare([tmp_path / "a", tmp_path / "b"], tmp_path)
    assert {name: bar["overall"] for name, bar in drawn[0].items()} == {
        "a: LIFT+": 70.0, "b: LIFT+ with TTE": 75.0,
    }  # fmt: skip


def test_a_run_without_an_ensemble_has_the_headline_of_one_crop(tmp_path):
    make_run(tmp_path / "w", results=("zero_shot", "test"))
    edit(tmp_path / "w" / "metrics.json", lambda v: v.update(validation={"test": 1.0}))
    page = Page(report.write(tmp_path / "w"))
    assert card(page)[1] == "overall, LIFT+"


@pytest.mark.parametrize("value", [[], {"test": 1.0}, {"test": 1.0, "test_tte": None}], ids=str)
def test_broken_validation_means_are_named(tmp_path, value):
    make_run(tmp_path / "w")
    edit(tmp_path / "w" / "metrics.json", lambda v: v.update(validation=value))
    with pytest.raises(UserError, match="metrics.json: expected validation to hold the numbers"):
        report.write(tmp_path / "w")


@pytest.mark.parametrize("name", ["$x^{$", "<b>" + "x" * 5000])
def test_names_are_drawn_letter_by_letter(tmp_path, name):
    """No name below the axis is a formula, and a long one leaves the axes their room."""
    labels, counts = {"test": name, "test_tte": name}, np.array([300, 50, 2])
    groups, accuracy = ["many", "medium", "few"], dict.fromkeys(labels, np.full(3, 50.0))
    drawn = class_figure(accuracy, labels, counts, groups, [name, "$y^{$", "z"])
    figure_file.write(drawn, tmp_path / "f.png")
    shown = [text.get_text() for text in drawn.axes[1].get_xticklabels()]
    assert shown[1:] == ["$y^{$", "z"]
    assert shown[0] in (name, f"{name[:15]}…{name[-16:]}")


@pytest.mark.slow
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


def test_a_report_says_how_the_run_was_trained(tmp_path):
    make_run(tmp_path / "w")
    path = tmp_path / "w" / "config.json"
    config = json.loads(path.read_text())
    config["train"] = {"epochs": 3, "batch": 32, "sampling": "balanced", "ema": 0.99}
    config["soups"] = {"models": 2, "factors": "0,<1>"}
    path.write_text(json.dumps(config))
    with log.RunLog(tmp_path / "w" / "soups" / "stage_1_model_1", active=True) as run:
        run.write(StepRecord(1, 0, 2.0, 0.02, 811.6, 0.25, 1.5))
    page = Page(report.write(tmp_path / "w"))
    text = " ".join(page.texts)
    assert "folder · demo · adaptformer · la · LT-Soups · balanced sampling · EMA 0.99" in text
    assert "3 epochs in batches of 32" in text and "balanced: each class equally often" in text
    assert "decay 0.99 (EMA): the results are those of the averaged weights" in text
    assert "factors 0,<1>" in text
    assert "the last step of LT-Soups, which tunes the classifier alone" in text


@pytest.mark.slow
def test_several_runs_are_compared(tmp_path, capsys):
    first = make_run(tmp_path / "a", seed=1)
    second = make_run(tmp_path / "b", seed=2, results=("zero_shot", "test"))
    run_command("report", str(tmp_path / "a"), str(tmp_path / "b"))
    page = Page(tmp_path / "a" / "report_compare.html")
    assert "a: LIFT+ with TTE" in page.texts and "b: LIFT+" in page.texts
    for value in (first["test_tte"]["overall"], second["test"]["few"]):
        assert f"{value:.2f}" in page.texts
    assert (tmp_path / "a" / "report_compare.png").exists()
    assert capsys.readouterr().out == f"{tmp_path / 'a' / 'report_compare.html'}\n"
    assert not list(tmp_path.glob("?/report.html"))  # training writes them
    with pytest.raises(UserError, match="--out"):
        comparison.compare([tmp_path / "a", tmp_path / "b"], tmp_path / "a" / "config.json")


@pytest.mark.slow
def test_a_comparison_elsewhere_only_reads_the_runs(tmp_path, capsys):
    workdirs = [tmp_path / "a", tmp_path / "b"]
    for seed, workdir in enumerate(workdirs):
        make_run(workdir, seed=seed)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    out = tmp_path / "c" / "d"
    run_command("report", *map(str, workdirs), "--out", str(out))
    assert capsys.readouterr().out == f"{out / 'report_compare.html'}\n"
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert before.items() <= files.items()
    assert {path.parent for path in files.keys() - before.keys()} == {out}


@pytest.mark.slow
def test_nothing_is_written_if_one_of_several_runs_is_missing(tmp_path):
    make_run(tmp_path / "a", seed=1)
    with pytest.raises(SystemExit, match="2"):
        run_command("report", str(tmp_path / "a"), str(tmp_path / "b"))
    assert not list((tmp_path / "a").glob("report*"))


def test_runs_of_the_same_folder_name_stay_apart(tmp_path):
    for parent in ("x", "y"):
        (tmp_path / parent).mkdir()
        make_run(tmp_path / parent / "w", results=("zero_shot",), steps=0)
    page = Page(comparison.compare([tmp_path / "x" / "w", tmp_path / "y" / "w"], tmp_path))
    assert f"{tmp_path / 'x' / 'w'}: zero-shot" in page.texts
    assert f"{tmp_path / 'y' / 'w'}: zero-shot" in page.texts


def test_a_number_that_an_older_version_did_not_measure_is_a_dash(tmp_path):
    found = make_run(tmp_path / "w", results=("test",))
    before = Page(report.write(tmp_path / "w")).texts
    edit(tmp_path / "w" / "metrics.json", lambda v: v["test"].pop("gmean"))
    after = Page(report.write(tmp_path / "w")).texts
    gmean = f"{found['test']['gmean']:.2f}"
    assert after.count("–") == before.count("–") + before.count(gmean) > before.count("–")


def edit(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


@pytest.mark.parametrize(
    "name, damage, message",
    [
        ("config.json", lambda p: p.unlink(), "No such file"),
        ("config.json", lambda p: p.write_text("{"), "not JSON"),
        ("config.json", lambda p: p.write_text("[]"), "expected a JSON object"),
        ("config.json", lambda p: edit(p, lambda v: v.pop("data_summary")), "data_summary"),
        ("config.json", lambda p: edit(p, lambda v: v["tuner"].clear()), "tuner.name"),
        ("metrics.json", lambda p: p.unlink(), "No such file"),
        ("metrics.json", lambda p: edit(p, lambda v: v.pop("seconds")), "seconds"),
        ("metrics.json", lambda p: edit(p, lambda v: v["test"].pop("overall")), "overall in test"),
        ("metrics.json", lambda p: edit(p, lambda v: v.update(test=[])), "expected a result"),
        (
            "metrics.json",
            lambda p: edit(p, lambda v: v.update(zero_shot=None, test=None, test_tte=None)),
            "at least one result",
        ),
        ("per_class.csv", lambda p: p.unlink(), "No such file"),
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
        ("log.jsonl", lambda p: p.unlink(), "No such file"),
        ("log.jsonl", lambda p: p.write_text("?\n" + p.read_text()), "line 1"),
    ],
)
def test_broken_files_are_named(tmp_path, name, damage, message):
    make_run(tmp_path / "w")
    damage(tmp_path / "w" / name)
    if message is None:
        report.write(tmp_path / "w")
        return
    with pytest.raises(UserError, match=f"{name}.*{message}"):
        report.write(tmp_path / "w")


def test_the_command_prints_mistakes_without_a_trace(tmp_path, capsys):
    with pytest.raises(SystemExit) as status:
        run_command("report", str(tmp_path / "nowhere"))
    assert status.value.code == 2
    assert re.match("error: .*nowhere: expected a run folder", capsys.readouterr().err)


def test_thousands_of_classes_are_one_outline():
    """A bar for each of 8,142 classes takes seconds to draw."""
    counts = np.sort(np.random.default_rng(0).integers(1, 900, 8142))[::-1].copy()
    groups = np.array(metrics.GROUPS)[(counts <= 100) + (counts < 20).astype(int)].tolist()
    names = [f"class {i}" for i in range(8142)]
    labels = {"test": "LIFT+"}
    for figure in (
        class_figure({"test": np.full(8142, 70.0)}, labels, counts, groups, names),
        frequency_figure({"train": counts}, groups, names),
    ):
        assert sum(len(axes.patches) for axes in figure.axes) < 20
        values = np.asarray(figure.axes[-1].patches[-1].get_data().values)
        np.testing.assert_array_equal(values, counts)
