"""Tests of sweeps and seed studies: cells, runs that are skipped or repeated, and tables."""

import csv
import importlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from PIL import Image
from support.commands import run_command
from support.paths import ROOT

from configs import demo, imagenet_lt, inat, places_lt
from lift_jax.data.images import crops, views
from lift_jax.errors import UserError
from lift_jax.models.heads import HEADS
from lift_jax.output.terminal import Terminal
from lift_jax.runs.phases import training
from lift_jax.settings.common import flatten
from lift_jax.settings.parse import to_dict
from lift_jax.settings.rules import TEXT_FEATURE_TUNERS
from lift_jax.sweeps import cells as sweeps
from lift_jax.sweeps import finished_runs, sweep
from lift_jax.sweeps import table as tables
from lift_jax.sweeps.folder import check_same
from lift_jax.sweeps.published import published as published_for
from lift_jax.sweeps.published import references
from lift_jax.training.losses import LOSSES
from lift_jax.training.monitor import StepRecord
from lift_jax.tuners.attach import TUNERS
from lift_jax.tuners.rules import PATH_RULES
from lift_jax.weights.names.hub import NAMES

CONFIGS = ("base", "demo", "folder", "cifar100", "imagenet_lt", "places_lt", "inat")


def origin(file: str) -> sweeps.Origin:
    return sweeps.Origin(file, importlib.import_module(f"configs.{file}").get_config)


def settled(name: str, c, file: str):
    return sweep.settle(c, sweeps.cells(name, c, origin(file)))


# -- the cells


@pytest.mark.parametrize("file", CONFIGS)
@pytest.mark.parametrize("argument", ["", "debug", "method=lift", "method=lt_soups"])
def test_every_sweep_of_every_config_is_valid(file, argument):
    config = importlib.import_module(f"configs.{file}").get_config(argument)
    before = config.to_json()
    for name in sweeps.SWEEPS:
        if name == "levels" and config.data.name != "inaturalist":
            with pytest.raises(UserError, match="no taxonomy"):
                sweeps.cells(name, config, origin(file))
            continue
        cells = settled(name, config, file)  # every key exists and every value is valid
        assert len(cells) > 1, name
        for cell, c in cells.items():
            assert re.fullmatch(r"[\w.+-]+", cell), cell  # it is the name of a folder
            assert c.model.backbone in (*NAMES, "demo", "debug")
            views.TrainTransform(
                res=32, kind=c.train.augment, interpolation=c.train.interpolation,
                mda=c.train.mda, min_area=c.train.min_area, flip=c.train.flip,
                epochs=c.train.epochs,
            )  # fmt: skip
    assert config.to_json() == before


@pytest.mark.parametrize("sweep_name", ["soups", "main"])
def test_plain_cells_are_plain_whatever_the_method_of_the_config(sweep_name):
    get, found = demo.get_config, {}
    for argument in ("", "method=lt_soups"):
        for name, c in settled(sweep_name, get(argument), "demo").items():
            found.setdefault(name, []).append(c.to_json())
            rate = {"none": 0.03, "adaptformer": 0.02, "full": 0.002}[c.tuner.name]
            rate = 0.01 if c.label == "LIFT" else rate
            if name.startswith("lt_soups"):
                rate = {"full": 3e-5, "adaptformer": 3e-4}[c.tuner.name]
            stages = 2 * name.startswith("lt_soups")
            optimizer = "adamw" if stages else "sgd"
            assert (c.train.lr, c.train.optimizer, c.soups.models) == (rate, optimizer, stages)
    assert all(one == other for one, other in found.values())


def test_sweeps_have_every_method_that_there_is():
    c = inat.get_config()
    assert set(sweeps.cells("losses", c, origin("inat"))) == set(LOSSES)
    assert set(sweeps.cells("heads", c, origin("inat"))) == set(HEADS)
    assert set(sweeps.cells("mda", c, origin("inat"))) == {*crops.SCHEDULES, "rrc", "none"}
    assert set(sweeps.cells("tuners", c, origin("inat"))) == {
        "none",
        *TUNERS,
        *PATH_RULES,
        *TEXT_FEATURE_TUNERS,
    } - {"bn"}
    no_texts = inat.get_config("backbone=vit_b16_in21k")
    assert set(sweeps.cells("tuners", no_texts, origin("inat"))) == {
        "none",
        *TUNERS,
        *PATH_RULES,
    } - {"bn"}
    resnet = inat.get_config("backbone=clip_rn50")
    resnets = {"none", "ssf", "bitfit", "bn", "full"}
    assert set(sweeps.cells("tuners", resnet, origin("inat"))) == resnets | set(TEXT_FEATURE_TUNERS)


@pytest.mark.parametrize(("file", "argument", "name", "cell", "key", "value"), [
    ("places_lt", "", "main", "classifier_only", "train.lr", 0.03),
    ("places_lt", "method=lift", "main", "classifier_only", "train.lr", 0.02),
    ("imagenet_lt", "", "main", "full", "train.lr", 0.001),
    ("imagenet_lt", "method=lift", "main", "full", "train.lr", 0.0005),
    ("places_lt", "", "tuners", "full", "train.lr", 0.002),
    ("places_lt", "method=lift", "tuners", "full", "train.lr", 0.001),
    ("imagenet_lt", "", "tuners", "aft", "tuner.ratio", 0.005),
    ("imagenet_lt", "method=lift", "tuners", "aft", "tuner.ratio", 0.01),
    ("places_lt", "method=lift", "tuners", "aft", "tuner.ratio", 0.005),
    ("places_lt", "method=lift", "tuners", "aft", "train.lr", 0.01),
    ("inat", "", "main", "LIFT", "train.epochs", 20),
    ("inat", "", "main", "LIFT", "train.augment", "rrc"),
    ("inat", "", "main", "LIFT", "label", "LIFT"),
    ("inat", "", "main", "LIFT+", "train.epochs", 15),
    ("inat", "method=lift", "main", "LIFT+", "train.mda", "convex"),
    ("inat", "method=lift", "main", "LIFT+", "test.interpolation", "bicubic"),
    ("inat", "backbone=clip_vit_l14", "main", "LIFT", "test.expand", 21),
    ("inat", "method=lift", "backbones", "clip_vit_l14", "test.expand", 21),
    ("inat", "", "backbones", "clip_vit_l14", "test.expand", 24),
    ("places_lt", "", "lr", "0.05", "train.lr", 0.05),
    ("places_lt", "", "ratio", "0.005", "tuner.ratio", 0.005),
    ("places_lt", "", "partial_lr", "0_lr_0.002", "tuner.name", "none"),
    ("places_lt", "", "partial_lr", "9_lr_0.002", "tuner.name", "full"),
    ("places_lt", "", "partial_lr", "9_lr_0.002", "tuner.partial", 9),
    ("places_lt", "", "partial_lr", "9_lr_0.002", "train.lr", 0.002),
    ("places_lt", "", "share_lr", "0.005_lr_0.02", "tuner.name", "aft"),
    ("places_lt", "", "share_lr", "0.005_lr_0.02", "tuner.ratio", 0.005),
    ("places_lt", "", "share_lr", "1_lr_0.001", "tuner.name", "full"),
    ("places_lt", "", "share_lr", "1_lr_0.001", "train.lr", 0.001),
    ("places_lt", "", "tte", "random_15", "test.views", 15),
    ("inat", "", "epochs", "50", "train.lr", 0.006),  # 0.02 * 15 / 50
    ("inat", "method=lift", "epochs", "50", "train.lr", 0.01),
    ("places_lt", "", "epochs", "10", "train.lr", 0.01),  # 0.02 * 5 / 10
    ("places_lt", "method=lift", "epochs", "20", "train.lr", 0.01),
    ("inat", "", "expand", "48", "test.expand", 48),
    ("inat", "", "dims", "256", "tuner.dim", 256),
    ("inat", "", "scales", "35", "head.scale", 35.0),
    ("inat", "", "ablation", "nothing", "loss.name", "ce"),
    ("inat", "", "ablation", "tuner+loss", "head.init", "none"),
    ("inat", "", "ablation", "start+loss", "tuner.name", "none"),
    ("demo", "", "partial", "4", "tuner.partial", 4),
    ("inat", "backbone=clip_vit_l14", "partial", "24", "tuner.partial", 24),
    ("inat", "", "ratio", "1", "tuner.name", "full"),
    ("inat", "", "inits", "10_shot", "head.shots", 10),
    ("inat", "", "tuners", "coop", "train.epochs", 50),
    ("inat", "", "tuners", "coop", "train.lr", 0.002),
    ("inat", "", "tuners", "coop", "train.flip", True),
    ("demo", "", "tuners", "coop", "train.flip", False),  # a mirrored digit is no digit
    ("demo", "", "main", "LIFT", "train.flip", False),
    ("inat", "", "prompts", "ensemble", "head.prompt", "ensemble"),
])  # fmt: skip
def test_cells_have_the_settings_of_the_papers(file, argument, name, cell, key, value):
    config = importlib.import_module(f"configs.{file}").get_config(argument)
    found = settled(name, config, file)[cell]
    assert flatten(found.to_dict())[key] == value


RATES = ("0.001", "0.002", "0.005", "0.01", "0.02", "0.05")


@pytest.mark.parametrize(("file", "argument", "name", "values"), [
    ("places_lt", "", "lr", RATES),
    ("inat", "", "partial_lr", ("0", "1", "2", "3", "6", "9", "12")),
    ("inat", "backbone=clip_vit_l14", "partial_lr", ("0", "2", "4", "6", "12", "18", "24")),
    ("demo", "", "partial_lr", ("0", "1", "2", "3", "4")),  # of 4 blocks
    ("inat", "backbone=clip_rn50", "partial_lr", ("0", "1", "2", "3", "6", "9", "16")),
    ("demo", "", "share_lr",
     ("0.001", "0.002", "0.005", "0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1")),
    ("inat", "", "expand", tuple(map(str, range(0, 49, 4)))),
    ("inat", "backbone=clip_vit_l14,method=lift", "expand",
     ("0", "3", "7", "10", "14", "17", "21", "24", "28", "31", "35", "38", "42")),
    ("places_lt", "", "epochs", ("1", "2", "3", "4", "5", "10", "15", "20", "25", "30")),
    ("places_lt", "method=lift", "epochs",
     ("2", "4", "5", "6", "8", "10", "15", "20", "25", "30")),
    ("inat", "method=lift", "epochs",
     ("4", "5", "8", "10", "12", "15", "16", "20", "30", "40", "50")),
    ("folder", "", "epochs", ("1", "2", "3", "4", "5", "10", "20")),
])  # fmt: skip
def test_values_of_sweeps(file, argument, name, values):
    config = importlib.import_module(f"configs.{file}").get_config(argument)
    if name in sweeps.CROSSED:
        values = [f"{value}_lr_{rate}" for value in values for rate in RATES]
    assert list(sweeps.cells(name, config, origin(file))) == list(values)


@pytest.mark.parametrize(("name", "axis"), [
    ("lr", "train.lr"), ("dims", "tuner.dim"), ("expand", "test.expand"),
    ("epochs", "train.epochs"), ("ablation", ""), ("main", ""),
])  # fmt: skip
def test_the_axis_is_the_setting_that_names_the_cells(name, axis):
    found = settled(name, demo.get_config(""), "demo")
    assert sweep.varied(found) == axis


def test_margins_are_those_of_the_resolution():
    config = places_lt.get_config()
    config.model.resolution = 112  # where the default, 24, stands for 12
    found = sweeps.cells("expand", config, origin("places_lt"))
    assert [cell["test.expand"] for cell in found.values()] == list(range(0, 24, 2))


def test_the_command_line_holds_where_a_cell_sets_nothing():
    config = inat.get_config()
    config.train.epochs, config.loss.tau = 3, 0.5
    main = settled("main", config, "inat")
    assert {c.train.epochs for c in main.values()} == {3}
    losses = settled("losses", config, "inat")
    assert losses["la"].loss.tau == 0.5 and losses["ce"].loss.tau == 1.0


def test_descriptors_are_a_cell_where_there_are_some():
    config = demo.get_config()
    assert "descriptor" not in settled("prompts", config, "demo")
    config.head.descriptors = "phrases.json"
    assert settled("prompts", config, "demo")["descriptor"].head.descriptors == "phrases.json"


def test_a_config_of_ones_own_is_compared_with_itself():
    own = sweeps.Origin("", demo.get_config)
    cells = sweep.settle(demo.get_config(), sweeps.cells("main", demo.get_config(), own))
    assert cells["LIFT"].train.augment == "rrc" and cells["LIFT"].train.epochs == 40
    assert cells["LIFT"].data.name == "digits"


def test_a_config_of_ones_own_has_no_published_numbers():
    lift = inat.get_config("method=lift")
    own = sweeps.Origin("", inat.get_config)
    assert published_for(lift, origin("inat")) and not published_for(lift, own)
    assert references(lift, own) == []


def test_an_unknown_sweep_names_its_neighbours():
    with pytest.raises(UserError, match="'loses'.*Did you mean 'losses'"):
        sweeps.cells("loses", demo.get_config(), origin("demo"))


@pytest.mark.parametrize("changes", [
    {"loss.nmae": "ce"}, {"train.lr": "fast"}, {"tuner.name": "lroa"}, {"head.kind": "cosin"},
    {"train.batch": 0},
], ids=str)  # fmt: skip
def test_a_broken_cell_is_told_by_its_name(changes):
    with pytest.raises(UserError, match="The cell 'b' of the sweep"):
        sweep.settle(demo.get_config(), {"a": {}, "b": changes})


@pytest.mark.parametrize("n", [1, 2, 3, 7, 9])
def test_parts_have_every_cell_once(n):
    names = list("abcdefg")
    parts = [sweep.take(names, f"{i}/{n}") for i in range(1, n + 1)]
    assert sorted(sum(parts, [])) == names
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert sweep.take(names, "") == names
    assert sweep.take(names, "2/3") == ["b", "e"]


@pytest.mark.parametrize("part", ["0/2", "3/2", "2", "a/b", "1/0", "-1/2", "1/2/3"])
def test_wrong_parts(part):
    with pytest.raises(UserError, match="i/n"):
        sweep.take(["a"], part)


# -- the table, from run folders written by hand


def write_run(folder: Path, c, results: dict[str, tuple], steps: int = 2) -> None:
    """Writes a finished run of 61 training images: two steps of 32."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(
        json.dumps({**to_dict(c), "data_summary": {"counts": [60, 1]}})
    )
    rows = {
        key: values and dict(zip(sweep.COLUMNS, values, strict=True))
        for key, values in ({"zero_shot": None, "test": None, "test_tte": None} | results).items()
    }
    sizes = {"tuned_params": 1234, "head_params": 70, "steps": steps}
    (folder / "metrics.json").write_text(json.dumps(rows | sizes))


def table_of(runs, published):
    return sweep.rows(runs, finished_runs.results_of(runs), published)


def runs_of(cells, workdir: Path, seeds: int):
    return {
        name: {workdir / name / f"seed_{s}": sweep.seeded(c, s) for s in range(seeds)}
        for name, c in cells.items()
    }


@pytest.fixture
def written(tmp_path):
    """Writes two seeds of one cell and one of another, without a many-shot class."""
    cells = sweep.settle(demo.get_config("debug"), {"ce": {"loss.name": "ce"}, "la": {}})
    runs = runs_of(cells, tmp_path, 2)
    zero = (50.0, None, 40.0, 60.0, 52.0)
    values = iter([80.0, 90.0, 70.0])
    for folder, c in [*runs["ce"].items(), *list(runs["la"].items())[:1]]:
        v = next(values)
        tte = (v + 1, None, v, v, v)
        write_run(folder, c, {"zero_shot": zero, "test": (v, None, v, 3.0, v), "test_tte": tte})
    return runs


def test_a_table_opens_each_run_once(written, tmp_path, monkeypatch):
    opened, whole = [], finished_runs.finished
    monkeypatch.setattr(
        finished_runs,
        "finished",
        lambda folder, *rest: opened.append(folder) or whole(folder, *rest),
    )
    console = Terminal(quiet=True)
    made = sweep.Sweep("a", tmp_path, written, "train", {}, [], console, True, False, "")
    table, lines = made.collect()
    assert len(table) == 5 and lines[0] == "Not finished: la (1 of 2 seeds)."
    assert sorted(opened) == sorted(folder for cell in written.values() for folder in cell)


def test_the_table_by_hand(written, tmp_path):
    table = table_of(written, {"ce": {"test": {"overall": 84.0, "many": 90.0, "few": 5.5}}})
    assert [row.name for row in table] == ["zero-shot", "ce", "ce with TTE", "la", "la with TTE"]
    assert [row.runs for row in table] == [2, 2, 2, 1, 1]
    assert [row.tuned for row in table] == [0, 1234, 1234, 1234, 1234]
    ce = table[1]
    assert ce.mean("overall") == 85.0
    assert ce.std("overall") == pytest.approx(50**0.5)  # sample: ((5^2 + 5^2) / 1)^0.5
    assert (ce.mean("many"), ce.std("many")) == (None, None)
    assert (ce.mean("few"), ce.std("few")) == (3.0, 0.0)
    assert [ce.difference(key) for key in ("overall", "many", "medium", "few")] == [
        1.0, None, None, -2.5,
    ]  # fmt: skip
    assert table[2].difference("overall") is None
    assert table[3].std("overall") is None
    assert sweep.unfinished(written, finished_runs.results_of(written)) == [
        "Not finished: la (1 of 2 seeds)."
    ]
    assert tables.texts_of(ce) == [
        "ce", "1,234", "85.0 ± 7.1", "–", "85.0 ± 7.1", "3.0 ± 0.0", "85.0 ± 7.1",
        "84.0 (90.0 / – / 5.5)", "+1.0 (– / – / −2.5)",
    ]  # fmt: skip

    tables.write(tmp_path, "losses", table, ["A note."])
    with open(tmp_path / "sweep.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["cell"] for row in rows] == ["", "ce", "ce", "la", "la"]
    assert float(rows[1]["overall_std"]) == pytest.approx(50**0.5)
    assert (rows[1]["many"], rows[3]["overall"], rows[3]["overall_std"]) == ("", "70.0", "")
    assert (rows[1]["published"], rows[1]["difference"]) == ("84.0", "1.0")
    assert (rows[1]["few_published"], rows[1]["few_difference"]) == ("5.5", "-2.5")
    assert (rows[1]["medium_published"], rows[1]["many_difference"]) == ("", "")
    text = (tmp_path / "sweep.md").read_text()
    assert "| ce with TTE | 1,234 | 86.0 ± 7.1 |" in text and "| la | 1,234 | 70.00 |" in text
    assert text.endswith("A note.\n")
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob(".*"))  # nothing half-written is left


@pytest.mark.parametrize(("changes", "words"), [
    ({"lr_0.1": {}}, "holds the table of another sweep: 'ce' is none of the cells of this one"),
    ({"ce": {}}, "'la' is none of the cells"),
    ({"ce": {"loss.name": "ldam"}, "la": {"train.lr": 0.5}}, "holds a run of another config"),
])  # fmt: skip
def test_another_sweep_does_not_replace_the_table(changes, words, written, tmp_path, monkeypatch):
    tables.write(tmp_path, "losses", table_of(written, {}), [])
    before = {path.name: path.read_bytes() for path in tmp_path.glob("sweep.*")}
    monkeypatch.setattr(sweep, "train_and_test", lambda *_: pytest.fail("it ran"))
    cells = sweep.settle(demo.get_config("debug"), changes)
    with pytest.raises(UserError, match=words) as refused:
        sweep.run_sweep(cells, tmp_path, title="lr")
    assert "Give another --workdir" in str(refused.value)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("sweep.*")} == before


def test_a_sweep_with_more_cells_goes_on_in_its_folder(written, tmp_path):
    tables.write(tmp_path, "losses", table_of(written, {}), [])
    changes = {"ce": {"loss.name": "ce"}, "la": {"train.lr": 0.5}, "more": {}}
    runs = runs_of(sweep.settle(demo.get_config("debug"), changes), tmp_path, 1)
    check_same(tmp_path, runs, {"", *runs})  # one run that fits is enough
    (tmp_path / "ce" / "seed_0" / "config.json").write_text("{")
    with pytest.raises(UserError, match="la/seed_0 holds a run of another config"):
        check_same(tmp_path, runs, {"", *runs})


def test_the_table_is_made_after_each_run_and_not_twice(tmp_path, monkeypatch):
    """Before the second run begins, the table holds the first: the second may be killed."""
    config = demo.get_config("debug")
    cells = sweep.settle(config, {"a": {}, "b": {"train.lr": 0.5}})
    made, seen, whole = [], [], tables.write

    def run(settings, workdir, *_):
        seen.append(len(made))
        write_run(workdir, cells[workdir.parent.name], {"test": (80.0, None, 1.0, 2.0, 3.0)})

    monkeypatch.setattr(sweep, "train_and_test", run)
    monkeypatch.setattr(sweep.report, "write", lambda *_: None)
    monkeypatch.setattr(tables, "write", lambda *a: made.append(a[2]) or whole(*a))
    sweep.run_sweep(cells, tmp_path, title="lr")
    assert seen == [0, 1] and [[row.cell for row in table] for table in made] == [["a"], ["a", "b"]]


def test_adjusted_results_have_lines_of_their_own(tmp_path):
    config = demo.get_config("debug")
    runs = runs_of(sweep.settle(config, {"ce": {}}), tmp_path, 1)
    results = {"test": 2.0, "test_adjusted": 4.0, "test_tte": 3.0, "test_tte_adjusted": 5.0}
    write_run(tmp_path / "ce" / "seed_0", config, {k: (v,) * 5 for k, v in results.items()})
    table = table_of(runs, {})
    assert {row.name: row.mean("few") for row in table} == {
        "ce": 2.0, "ce adjusted": 4.0, "ce with TTE": 3.0, "ce with TTE, adjusted": 5.0,
    }  # fmt: skip
    tables.write(tmp_path, "losses", table, [])
    assert "| ce adjusted | 1,234 | 4.00 |" in (tmp_path / "sweep.md").read_text()


def test_a_crossed_sweep_is_a_heat_map(tmp_path):
    config = demo.get_config("debug")
    changes = sweeps.with_rates({"0": sweeps.named("none"), "1": {"tuner.partial": 1}})
    runs = runs_of(sweep.settle(config, changes), tmp_path, 1)
    for i, (name, cell) in enumerate(runs.items()):
        for folder, c in cell.items():
            if name != "1_lr_0.01":  # not finished
                write_run(folder, c, {"test": (float(i), None, 2.0 * i, 90.0 - i, 5.0)})
    drawn = tables.figure("a", table_of(runs, {}), crossed="blocks")
    overall, medium, few = drawn.axes
    texts = [[text.get_text() for text in axes.texts] for axes in drawn.axes]
    assert texts[0] == [f"{i}.0" for i in range(12) if i != 9]
    assert texts[1] == [f"{2 * i}.0" for i in range(12) if i != 9]
    assert [axes.get_title() for axes in drawn.axes] == [
        "one crop: overall", "one crop: medium", "one crop: few",
    ]  # fmt: skip
    assert [label.get_text() for label in overall.get_xticklabels()] == list(RATES)
    assert [label.get_text() for label in overall.get_yticklabels()] == ["0", "1"]
    assert overall.get_ylabel() == "blocks"
    best = [axes.patches[0].get_xy() for axes in (overall, few)]
    assert best == [(4.53, 0.53), (-0.47, -0.47)]  # 11 is the last cell, 90 the first


def test_without_published_numbers_there_is_no_column_for_them(written):
    assert tables.headings(table_of(written, {}))[-1] == "mean"
    alone = table_of(written, {"la": {"test": {"overall": 1.0}}})
    assert tables.headings(alone)[-2:] == ["published", "difference"]
    assert [tables.texts_of(row)[-2] for row in alone] == ["", "", "", "1.0", ""]
    groups = table_of(written, {"la": {"test": {"overall": 1.0, "few": 2.0}}})
    assert tables.headings(groups)[-2:] == ["published (many / medium / few)", "difference"]


def test_other_backbones_have_a_zero_shot_row_each(tmp_path):
    config = demo.get_config("debug")
    cells = sweep.settle(config, {n: {"model.backbone": n} for n in ("debug", "demo")})
    runs = runs_of(cells, tmp_path, 1)
    for cell in runs.values():
        for folder, c in cell.items():
            write_run(folder, c, {"zero_shot": (1.0,) * 5, "test": (2.0,) * 5})
    names = [row.name for row in table_of(runs, {})]
    assert names == ["debug zero-shot", "debug", "demo zero-shot", "demo"]


def test_a_seed_study_is_called_by_its_method(tmp_path):
    config = demo.get_config("debug")
    runs = {"": {tmp_path / "seed_0": config}}
    write_run(tmp_path / "seed_0", config, {"test": (2.0,) * 5})
    assert [row.name for row in table_of(runs, {})] == ["LIFT+"]


@pytest.mark.parametrize(("changes", "still"), [
    ({}, True), ({"checkpoint.keep": 7}, True), ({"data.workers": 3}, True),
    ({"train.epochs": 2}, False), ({"seed": 1}, False), ({"test.expand": 3}, False),
    ({"loss.name": "ce"}, False), ({"model.backbone": "demo"}, False),
], ids=str)  # fmt: skip
def test_a_run_is_finished_for_its_own_config_alone(changes, still, tmp_path):
    config = demo.get_config("debug")
    write_run(tmp_path / "run", config, {"test": (2.0,) * 5})
    config.update_from_flattened_dict(changes)
    assert (finished_runs.finished(tmp_path / "run", config) is not None) == still


def test_a_run_that_stopped_early_or_was_spoilt_is_not_finished(tmp_path):
    config = demo.get_config("debug")
    write_run(tmp_path / "early", config, {"test": (2.0,) * 5}, steps=1)
    write_run(tmp_path / "untested", config, {})
    write_run(tmp_path / "torn", config, {"test": (2.0,) * 5})
    (tmp_path / "torn" / "metrics.json").write_text('{"test": {')
    for name in ("early", "untested", "torn", "absent"):
        assert finished_runs.finished(tmp_path / name, config) is None


# -- what is published


def test_published_numbers_belong_to_exactly_their_runs():
    lift, plus = places_lt.get_config("method=lift"), places_lt.get_config()
    for c in (lift, plus):
        c.data.root, c.seed, c.test.batch = "/somewhere", 3, 64
    published = {
        "test": {"overall": 51.5, "many": 51.3, "medium": 52.2, "few": 50.5},
        "test_tte": {"overall": 52.2},
    }
    assert published_for(lift, origin("places_lt")) == published
    assert (
        published_for(settled("main", plus, "places_lt")["LIFT"], origin("places_lt")) == published
    )
    cells = settled("losses", lift, "places_lt")
    assert [n for n, c in cells.items() if published_for(c, origin("places_lt"))] == ["la"]
    cells = settled("heads", lift, "places_lt")  # the default kind, auto, is the cosine head here
    assert [n for n, c in cells.items() if published_for(c, origin("places_lt"))] == ["cosine"]
    assert published_for(plus, origin("places_lt")) == {}
    assert published_for(lift, origin("folder")) == {}
    others = {"train.epochs": 5, "test.expand": 8, "tuner.dim": 4, "data.val_share": 0.1}
    for key, value in others.items():
        other = sweep.settle(lift, {"": {key: value}})[""]
        assert published_for(other, origin("places_lt")) == {}
    large = imagenet_lt.get_config("method=lift,backbone=clip_vit_l14")
    assert published_for(large, origin("imagenet_lt")) == {"test_tte": {"overall": 82.9}}
    base = published_for(imagenet_lt.get_config("method=lift"), origin("imagenet_lt"))
    assert base == {
        "test": {"overall": 77.0},
        "test_tte": {"overall": 78.3, "many": 81.3, "medium": 77.4, "few": 73.4},
    }


def test_published_cifar_goes_by_imbalance():
    get = importlib.import_module("configs.cifar100").get_config
    found = {}
    for imbalance in (100.0, 50.0, 10.0, 1.0):
        c = get("method=lift")
        c.data.imbalance = imbalance
        found[imbalance] = published_for(c, origin("cifar100")).get("test_tte", {}).get("overall")
    assert found == {100.0: 81.7, 50.0: 83.1, 10.0: 84.9, 1.0: None}


def test_notes_say_what_is_published():
    notes = references(places_lt.get_config(), origin("places_lt"))
    assert len(notes) == 4
    groups = "51.5; many 51.3, medium 52.2, few 50.5"
    assert f"clip_vit_b16: {groups} (without TTE, second-hand: quoted in" in notes[0]
    assert "52.2 (with TTE, second-hand" in notes[1] and "53.7 (leaderboard mirrors" in notes[2]
    assert notes[3] == "Published for LT-Soups (NeurIPS 2025), clip_vit_b16: 51.7 (without TTE)."
    species = references(inat.get_config(), origin("inat"))
    assert len(species) == 3 and "79.1 (without TTE, re-run by" in species[0]
    assert "79.4" in species[1] and "LT-Soups" in species[2] and "78.2" in species[2]
    assert references(demo.get_config(), origin("demo")) == []
    assert references(places_lt.get_config("debug"), origin("places_lt")) == []


def test_the_page_lists_every_sweep_with_its_runs():
    page = (ROOT / "docs" / "papers.md").read_text()
    listed = re.findall(r"\| `--sweep=(\w+)` \| (\d+)(?: \((\d+)\))? \|", page)
    found = {name: (int(runs), int(tests or 0)) for name, runs, tests in listed}
    assert found.keys() == sweeps.SWEEPS.keys()
    for name, (runs, tests) in found.items():
        file, config = ("inat", inat) if name == "levels" else ("places_lt", places_lt)
        cells = settled(name, config.get_config(), file)
        assert len(cells) == runs + tests, name
        trained = {
            tuple(
                value
                for key, value in sorted(flatten(c.to_dict()).items())
                if key not in finished_runs.TESTED
            )
            for c in cells.values()
        }
        assert name in sweeps.ZERO_SHOT or len(trained) == runs, name
    assert "in 11 runs" in page and len(settled("epochs", inat.get_config(), "inat")) == 11


# -- whole sweeps


@pytest.fixture(scope="session", autouse=True)
def compile_cache(tmp_path_factory):
    """Keeps compiled programs, because several runs share them."""
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("xla")))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


@pytest.fixture
def ran(monkeypatch):
    """Returns the list of the run folders, CELL/seed_S, that are run."""
    calls, run = [], sweep.train_and_test

    def counted(settings, workdir, *args):
        calls.append("/".join(workdir.parts[-2:]))
        return run(settings, workdir, *args)

    monkeypatch.setattr(sweep, "train_and_test", counted)
    return calls


@pytest.mark.slow
def test_a_sweep_runs_continues_and_tells(tmp_path, ran, capsys):
    changes = {"ce": {"loss.name": "ce"}, "bad": {"data.name": "fodler"}, "la": {}}
    cells = sweep.settle(demo.get_config("debug"), changes)
    everything = [f"{cell}/seed_{s}" for cell in cells for s in (0, 1)]
    options = {"title": "losses", "seeds": 2, "of_features": True}

    # the second machine: its cell alone, and the table of what is there
    with pytest.raises(UserError, match="2 runs failed"):
        sweep.run_sweep(cells, tmp_path, part="2/3", **options)
    assert ran == everything[2:4]
    assert "Not finished: ce, bad, la." in capsys.readouterr().out
    assert not (tmp_path / "sweep.csv").exists()

    # all: a cell that fails does not stop the others
    ran.clear()
    with pytest.raises(UserError, match="2 runs failed"):
        sweep.run_sweep(cells, tmp_path, **options)
    assert ran == everything
    out = capsys.readouterr().out
    notes = "Failed: bad/seed_0, bad/seed_1. Unknown data set (data.name) 'fodler'."
    assert notes in " ".join(out.split()) and "Not finished: bad." in out
    assert notes in (tmp_path / "sweep.md").read_text()
    results = {
        name: json.loads((tmp_path / name / "metrics.json").read_text())
        for name in everything
        if not name.startswith("bad")
    }
    with open(tmp_path / "sweep.csv", newline="") as file:
        rows = {(row["cell"], row["result"]): row for row in csv.DictReader(file)}
    for cell in ("ce", "la"):
        values = [results[f"{cell}/seed_{s}"]["test"]["overall"] for s in (0, 1)]
        row = rows[cell, "test"]
        assert float(row["overall"]) == pytest.approx(sum(values) / 2)
        assert float(row["overall_std"]) == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    assert (tmp_path / "ce" / "seed_1" / "report.html").stat().st_size > 0
    lines = (tmp_path / "sweep.md").read_text().splitlines()
    assert all(any(line.startswith(f"{cell}: ") for line in lines) for cell in ("ce", "la"))
    assert {"sweep_distances.png", "sweep_similarity.png"} <= {p.name for p in tmp_path.iterdir()}

    # continued: what is finished is neither run nor opened again, and ends as it was
    del cells["bad"]
    ran.clear()
    shutil.rmtree(tmp_path / "la" / "seed_1")
    table = sweep.run_sweep(cells, tmp_path, **options)
    assert ran == ["la/seed_1"]
    again = json.loads((tmp_path / "la" / "seed_1" / "metrics.json").read_text())
    for result in ("zero_shot", "test", "test_tte"):
        assert again[result] == results["la/seed_1"][result]
    ran.clear()
    assert sweep.run_sweep(cells, tmp_path, **options) == table and not ran


@pytest.mark.slow
def test_cells_that_differ_in_crops_share_their_training(tmp_path, ran, monkeypatch):
    config = demo.get_config("debug")
    cells = sweep.settle(config, {"0": {"test.expand": 0}, "ten": {"test.crops": "ten"}})
    trained, train = [], training.train

    def noted(*arguments, **options):
        trained.append(arguments[5].parent.name)
        return train(*arguments, **options)

    monkeypatch.setattr(training, "train", noted)
    sweep.run_sweep(cells, tmp_path, title="expand")
    assert trained == ["0"] and ran == ["0/seed_0", "ten/seed_0"]
    a, b = (json.loads((tmp_path / n / "seed_0" / "metrics.json").read_text()) for n in cells)
    assert a["test"] == b["test"] and a["steps"] == b["steps"] == 2
    lines = (tmp_path / "ten" / "seed_0" / "log.jsonl").read_text().splitlines()
    assert [StepRecord(**json.loads(line)).step for line in lines] == [1, 2]


@pytest.mark.slow
def test_a_sweep_without_training(tmp_path, ran):
    changes = {"photo": {}, "classname": {"head.prompt": "classname"}}
    cells = sweep.settle(demo.get_config("debug"), changes)
    table = sweep.run_sweep(cells, tmp_path, title="prompts", mode="zero_shot")
    assert ran == ["photo/seed_0", "classname/seed_0"]
    assert [(row.name, row.tuned) for row in table] == [
        ("photo zero-shot", 0), ("classname zero-shot", 0),
    ]  # fmt: skip
    assert not list(tmp_path.rglob("log.jsonl"))  # nothing was trained
    assert (tmp_path / "photo" / "seed_0" / "report.html").exists()
    for cell, row in zip(cells, table, strict=True):
        found = json.loads((tmp_path / cell / "seed_0" / "metrics.json").read_text())
        assert row.mean("overall") == found["zero_shot"]["overall"] and found["test"] is None
    assert sweep.run_sweep(cells, tmp_path, title="prompts", mode="zero_shot") == table
    assert len(ran) == 2
    assert (
        finished_runs.finished(tmp_path / "photo" / "seed_0", cells["photo"]) is None
    )  # not trained


@pytest.mark.slow
def test_zero_shot_by_level_of_the_taxonomy(tmp_path):
    taxa = {1: ("Aves", "Corvus", "Corvus corax"), 2: ("Aves", "Pica", "Pica pica"),
            3: ("Insecta", "Apis", "Apis mellifera")}  # fmt: skip
    content = {
        "categories": [
            {"id": i, "name": name, "kingdom": "Animalia", "phylum": "any", "class": kind,
             "order": kind, "family": genus, "genus": genus}
            for i, (kind, genus, name) in taxa.items()
        ],
        "images": [{"id": i, "file_name": f"{i}.png"} for i in taxa],
        "annotations": [{"image_id": i, "category_id": i} for i in taxa],
    }  # fmt: skip
    (tmp_path / "all.json").write_text(json.dumps(content))
    for i in taxa:
        Image.new("RGB", (40, 40), (80 * i, 0, 0)).save(tmp_path / f"{i}.png")
    settings = {
        "name": "inaturalist", "root": tmp_path, "train_list": "all.json", "test_list": "all.json",
    }  # fmt: skip
    done = subprocess.run(
        [
            sys.executable, "-m", "lift_jax.main", "--config=configs/demo.py:debug",
            *(f"--config.data.{key}={value}" for key, value in settings.items()),
            f"--workdir={tmp_path}/run", "--sweep=levels", "--sweep_cells=3/7",
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    out = " ".join(done.stdout.split())
    assert "class zero-shot" in out
    assert "Not finished: kingdom, phylum, order, family, genus, species." in out
    about = json.loads((tmp_path / "run" / "class" / "seed_0" / "config.json").read_text())
    assert about["data_summary"]["class_names"] == ["Aves", "Insecta"]
    assert not list((tmp_path / "run").rglob("log.jsonl"))  # nothing was trained


@pytest.mark.parametrize("seeds", [0, 1001, 10**12])
def test_the_number_of_seeds_has_bounds(seeds, tmp_path):
    words = f"--seeds is {seeds}; it must be at least 1 and at most 1,000"
    with pytest.raises(UserError, match=words):
        sweep.run_sweep({"": demo.get_config("debug")}, tmp_path, title="", seeds=seeds)


@pytest.mark.parametrize(("flags", "words"), [
    (["--sweep=loses"], "Did you mean 'losses'"),
    (["--seeds=0"], "--seeds is 0"),
    (["--sweep_cells=1/2"], "give --sweep"),
    (["--seeds=2", "--mode=evaluate"], "--mode=evaluate is for a single run"),
], ids=str)  # fmt: skip
def test_mistakes_in_flags_are_one_message(flags, words, tmp_path, capsys):
    workdir = f"--workdir={tmp_path}/run"
    with pytest.raises(SystemExit) as exit:
        run_command("train", "--config=configs/demo.py:debug", workdir, *flags)
    err = capsys.readouterr().err
    assert exit.value.code == 2
    assert err.startswith("error: ") and words in err
    assert not (tmp_path / "run").exists()
