"""Nasty names in every place where names are shown or written: they are text there, and no more."""

import io
import json
import re
import warnings
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.table import Table
from support.nasty_names import HALF, NASTY

from lift_jax.errors import UserError, fail
from lift_jax.evaluation import metrics, tables
from lift_jax.output.lines import say
from lift_jax.output.plain import beside, markdown_cell, printable
from lift_jax.output.terminal import Terminal, track
from lift_jax.reports import comparison, figure_file, report
from lift_jax.reports.figures.by_class import class_figure, frequency_figure
from lift_jax.reports.figures.consistency import similarity_figure
from lift_jax.reports.figures.runs import comparison_figure
from lift_jax.reports.figures.views import views_figure
from lift_jax.runs.answers.answering import Prediction
from lift_jax.runs.answers.output import show
from lift_jax.storage import atomic
from lift_jax.storage.formats import csv_files
from lift_jax.sweeps import table as sweep_table

ALL = (*NASTY, HALF)
CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u2028\u2029\u202a-\u202e\ud800-\udfff]")


def terminal(encoding="utf-8", **options):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
    return Terminal(file=stream, width=1000, **options), stream


def printed(stream):
    return stream.buffer.getvalue().decode(stream.encoding)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_the_terminal_shows_the_letters(encoding):
    for name in ALL:
        console, stream = terminal(encoding)
        console.print(name)
        expected = printable(name, kept="\n").encode(encoding, "backslashreplace").decode(encoding)
        assert printed(stream) == expected.expandtabs() + "\n"
        assert not CONTROL.search(printed(stream))


def test_tables_show_the_letters():
    for name in ALL:
        console, stream = terminal(force_terminal=True, color_system=None)
        table = Table(title=name)
        table.add_column(name)
        table.add_row(name)
        console.print(table)
        console.rule(name)
        text = printed(stream)
        assert text.count(printable(name, kept="\n").strip().split("\n")[0]) >= 3, name
        assert not CONTROL.search(text)


def test_progress_bars_show_the_letters():
    for name in ALL:
        console, stream = terminal(force_terminal=True, color_system=None)
        assert list(track(iter([1]), name, 1, console=console)) == [1]
        text = re.sub("\x1b\\[[^a-zA-Z]*[a-zA-Z]|\r", "", printed(stream))  # the bar's own controls
        assert printable(name).strip()[:40] in text
        assert not CONTROL.search(text)


def test_lines_and_errors_show_the_letters(capsys):
    for name in ALL:
        say(name)
        fail(UserError(f"{name}: expected another."))
        for text in capsys.readouterr():
            assert not CONTROL.search(text)
            assert all(line.strip() in text for line in printable(name, kept="\n").split("\n"))


def test_a_name_cannot_begin_a_message(capsys):
    fail("There is no file a\nerror: all is lost\n  b\n\nc.")
    assert capsys.readouterr().err == (
        "error: There is no file a\n  error: all is lost\n  b\n\n  c.\n"
    )


def test_tables_of_the_package(capsys):
    summary = dict.fromkeys(metrics.NAMES, 50.0)
    predictions = [Prediction((name,), (0.5,)) for name in ALL]
    console, stream = terminal()
    console.print(tables.results_table({name: summary for name in ALL}))
    show(list(ALL)[:40], predictions[:40], console)
    for name in list(ALL)[:40]:
        assert printed(stream).count(printable(name).strip()[:30].strip()) >= 2, name
    assert not CONTROL.search(printed(stream))


def test_csv_gives_every_name_back_and_nothing_is_live(tmp_path):
    path = tmp_path / "names.csv"
    csv_files.write_csv(path, ["name", "number"], [(name, -1.5) for name in NASTY])
    header, rows = csv_files.read_csv(path)
    assert header == ["name", "number"]
    assert rows == [[name, "-1.5"] for name in NASTY]
    for line in path.read_bytes().split(b"\n"):
        assert not re.match(rb'"?[=+@\t\r]|"?-[^0-9]', line), line
    csv_files.write_csv(path, [HALF], [[HALF]])
    assert csv_files.read_csv(path) == (["half \\udc80"], [["half \\udc80"]])


def test_markdown_cells_are_one_cell_and_no_markup():
    for name in ALL:
        cell = markdown_cell(name)
        assert not re.search(r"(?<!\\)(\\\\)*[|`*\[\]~$]|[<>\n\r]", cell), name


def test_figures_are_drawn(tmp_path):
    names = list(ALL)
    for at in range(0, len(names), 25):
        some = names[at : at + 25]
        counts = np.arange(len(some), 0, -1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            figure = class_figure(
                {"test": np.full(len(some), 50.0)}, {"test": some[0]}, counts,
                ["few"] * len(some), some,
            )  # fmt: skip
            shown = [label.get_text() for label in figure.axes[1].get_xticklabels()]
            assert shown == [beside(name) for name in some]
            assert not any(CONTROL.search(text) for text in shown)
            figure_file.write(figure, tmp_path / "classes.png")
            bars = dict.fromkeys(("overall", "many", "medium", "few", "mean"), 50.0)
            compared = comparison_figure({name: bars for name in some})
            figure_file.write(compared, tmp_path / "compare.png")
            sheet = views_figure({some[3]: [np.zeros((4, 4, 3), np.uint8)]}, some[:1])
            figure_file.write(sheet, tmp_path / "views.png")


def test_a_long_name_leaves_the_figures_their_place(tmp_path):
    names = ["fox", f"00001_Animalia_{'Lepidoptera' * 16}_mellonella", "hare"]
    counts, map_ = np.array([30, 9, 2]), np.eye(3)
    groups = ["medium", "few", "few"]
    figures = [
        class_figure({"test": np.full(3, 50.0)}, {"test": "LIFT+"}, counts, groups, names),
        frequency_figure({"train": counts}, groups, names),
        similarity_figure({"before": map_, "after": map_}, {"medium": 1, "few": 2}, names),
        views_figure({name: [np.zeros((4, 4, 3), np.uint8)] * 5 for name in names}, list("abcde")),
    ]
    for figure in figures:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            figure_file.write(figure, tmp_path / "figure.png")
        places = [
            axes.get_tightbbox().transformed(figure.transFigure.inverted()) for axes in figure.axes
        ]
        assert min(place.y0 for place in places) > -0.01 and max(p.x1 for p in places) < 1.01
        area = sum(axes.get_position().width * axes.get_position().height for axes in figure.axes)
        assert area > 0.2
    assert beside(names[1]).startswith("00001_Animalia_") and beside(names[1]).endswith(
        "mellonella"
    )


def test_the_table_of_a_sweep(tmp_path):
    values = {column: (50.0,) for column in sweep_table.COLUMNS}
    rows = [sweep_table.Row(name, "test", 1, 1, values) for name in NASTY[:9]]
    sweep_table.write(tmp_path, NASTY[0], rows, [])
    lines = (tmp_path / "sweep.md").read_text().splitlines()
    cells = [re.split(r"(?<!\\)\|", line) for line in lines if line.startswith("|")]
    assert len({len(cell) for cell in cells}) == 1 and len(cells) == 2 + len(rows)


class Page(HTMLParser):
    """Elements, attributes and texts of a page."""

    def __init__(self, path):
        super().__init__()
        self.kinds: set[tuple[str, tuple[str, ...]]] = set()
        self.texts: list[str] = []
        self.scripts = 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.kinds.add((tag, tuple(name for name, _ in attrs)))
        self.scripts += tag == "script"

    def handle_data(self, data):
        self.texts.append(data)


def make_run(workdir, names):
    """Writes a finished run whose every text is the first of the names."""
    first = names[0]
    total = np.full(len(names), 3)
    groups = ["few"] * len(names)
    summary = dict.fromkeys(metrics.NAMES, 50.0) | {"images": 3 * len(names)}
    config = {
        "seed": 0, "label": first, first: first, "data": {"name": first, "root": first},
        "model": {"backbone": first}, "tuner": {"name": first}, "loss": {"name": first},
        "data_summary": {"class_names": names},
    }  # fmt: skip
    facts = {"tuned_params": 1, "head_params": 1, "frozen_params": 1, "steps": 0, "seconds": 1.0}
    workdir.mkdir()
    content = json.dumps(config)
    (workdir / "config.json").write_text(content)
    found = dict.fromkeys(("zero_shot", "test", "test_tte"), summary) | facts
    atomic.write_json(workdir / "metrics.json", found | {"images_per_second": 1.0})
    csv_files.write_csv(
        workdir / "per_class.csv",
        ["class", "name", "train_images", "group", "test_images", "zero_shot", "test", "test_tte"],
        [(c, name, 3, groups[c], total[c], 50.0, 50.0, 50.0) for c, name in enumerate(names)],
    )


def test_reports_hold_every_name_as_text(tmp_path):
    make_run(tmp_path / "plain", [f"kind {i}" for i in range(10)])
    plain = Page(report.write(tmp_path / "plain"))
    expected = plain.kinds
    compared = Page(comparison.compare([tmp_path / "plain", tmp_path / "plain"], tmp_path)).kinds
    assert not any(name.startswith("on") for _, names in expected for name in names)
    for at in range(0, len(NASTY), 10):
        names = list(NASTY[at : at + 10]) + ["other"]
        workdir = tmp_path / str(at)
        make_run(workdir, names)
        page = Page(report.write(workdir))
        assert page.kinds <= expected and page.scripts == plain.scripts == 1
        shown = set(page.texts)
        for name in names[:10]:
            assert printable(name) in shown, name
        page = Page(comparison.compare([workdir, tmp_path / "plain"], workdir))
        assert page.kinds <= compared
