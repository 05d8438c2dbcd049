"""Tests of the log, which survives kills and continuations, and of progress and tables."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from lift_jax.errors import UserError
from lift_jax.evaluation import tables
from lift_jax.runs import log
from lift_jax.runs.phases.progress import Progress
from lift_jax.storage import atomic
from lift_jax.storage.formats.csv_files import write_csv
from lift_jax.training.monitor import StepRecord
from lift_jax.tuners.parameters import Parameter, parameter_counts, parameter_table


def step(n, loss=1.5, wait=0.0):
    return StepRecord(n, (n - 1) // 5, loss, 0.02, 640.0, wait, 0.25 * n)


def written(workdir):
    return [json.loads(line) for line in (workdir / log.LOG).read_text().splitlines()]


def events(workdir, tag):
    """Returns {step: value} of a tag as TensorBoard would: a restart hides what it purges."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    found = {}
    for file in sorted(workdir.glob("events.*")):
        data, at = file.read_bytes(), 0
        while at < len(data):  # a record: length, its checksum, the event, its checksum
            length = int.from_bytes(data[at : at + 8], "little")
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length
            if event.session_log.status == SessionLog.START:
                found = {s: value for s, value in found.items() if s < event.step}
            for value in event.summary.value:
                if value.tag == tag:
                    found[event.step] = value.simple_value
    return found


def plain_console():
    return Console(file=io.StringIO(), width=100)


def test_a_run_that_continues_leaves_one_history(tmp_path):
    with log.RunLog(tmp_path, active=True) as run:
        assert run.resume(0) == 0
        for n in range(1, 8):
            run.write(step(n))
        run.scalars(7, {"test/overall": 71.5, "test/few": None})
    with log.RunLog(tmp_path, active=True) as run:
        assert run.resume(5) == 1.25
        assert [line["step"] for line in written(tmp_path)] == [1, 2, 3, 4, 5]
        run.write(step(6, loss=0.5))
        run.scalars(6, {"test/overall": 73.5})
    lines = written(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert lines[-1] == {
        "step": 6,
        "epoch": 1,
        "loss": 0.5,
        "lr": 0.02,
        "images_per_second": 640.0,
        "wait": 0.0,
        "seconds": 1.5,
    }
    assert log.read_log(tmp_path / log.LOG)[-1] == step(6, loss=0.5)
    assert events(tmp_path, "train/loss") == {**dict.fromkeys(range(1, 6), 1.5), 6: 0.5}
    assert events(tmp_path, "test/overall") == {6: 73.5}
    assert events(tmp_path, "test/few") == {}
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_run_from_the_start_drops_an_old_log(tmp_path):
    with log.RunLog(tmp_path, active=True) as run:
        run.write(step(1))
        run.write(step(2))
    with log.RunLog(tmp_path, active=True) as run:
        run.write(step(1, loss=9.0))
    assert log.read_log(tmp_path / log.LOG) == [step(1, loss=9.0)]


def test_a_torn_last_line_is_dropped_and_a_broken_one_named(tmp_path):
    path = tmp_path / log.LOG
    with log.RunLog(tmp_path, active=True) as run:
        for n in range(1, 4):
            run.write(step(n))
    whole = path.read_bytes()
    last = whole[:-1].rfind(b"\n") + 1
    for cut in range(last + 1, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert log.read_log(path) == [step(1), step(2)]
    with log.RunLog(tmp_path, active=True) as run:
        assert run.resume(3) == 0.5
        run.write(step(3))
    assert path.read_bytes() == whole

    path.write_text('{"step": 1}\n' + whole.decode())
    with pytest.raises(UserError, match=r"log.jsonl: line 1 is not a training step .*Remove"):
        log.read_log(path)
    with pytest.raises(UserError, match="Cannot read .*nowhere.jsonl: No such file"):
        log.read_log(tmp_path / "nowhere.jsonl")


def test_other_hosts_write_and_show_nothing(tmp_path):
    console = plain_console()
    with log.RunLog(tmp_path / "w", active=False) as run:
        assert run.resume(3) == 0
        run.write(step(4))
        run.scalars(4, {"test/overall": 1.0})
    with Progress(10, 2, active=False, console=console) as progress:
        progress.update(step(1))
    assert not (tmp_path / "w").exists()
    assert console.file.getvalue() == ""


def test_files_appear_whole_or_not_at_all(tmp_path):
    path = tmp_path / "metrics.json"
    atomic.write_json(path, {"a": np.float32(0.5), "b": np.arange(2), "c": None, "é": "ü"})
    assert json.loads(path.read_text()) == {"a": 0.5, "b": [0, 1], "c": None, "é": "ü"}
    before = path.read_bytes()
    with pytest.raises(ValueError):
        atomic.write_json(path, {"a": float("nan")})
    with pytest.raises(TypeError, match="set does not fit"):
        atomic.write_json(path, {"a": {1}})
    with pytest.raises(RuntimeError), atomic.open_replacement(path) as file:
        file.write("half")
        raise RuntimeError
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.json"]


def test_csv_leaves_missing_cells_empty(tmp_path):
    path = tmp_path / "per_class.csv"
    write_csv(path, ["class", "name", "test"], [[0, "a, b", 50.0], [1, "c", None]])
    assert path.read_text() == 'class,name,test\n0,"a, b",50.0\n1,c,\n'
    write_csv(path, ["x"], [[np.float64("nan")], [3]])
    assert path.read_text() == "x\n\n3\n" or path.read_text() == 'x\n""\n3\n'


def test_progress_without_a_terminal_is_a_line_now_and_then():
    console, now = plain_console(), [0.0]
    with Progress(10, 2, console=console, clock=lambda: now[0]) as progress:
        for n in range(1, 11):
            progress.update(step(n))
            now[0] += 11.0
    lines = console.file.getvalue().splitlines()
    # The first step, 33 seconds later, the ends of both epochs, and 30 seconds after the first.
    assert [line.split(" ·")[0] for line in lines] == [
        "step 1/10",
        "step 4/10",
        "step 5/10",
        "step 8/10",
        "step 10/10",
    ]
    assert lines[0] == ("step 1/10 · epoch 1/2 · loss 1.5000 · 640 images/s · ? left · waiting 0%")
    assert "epoch 1/2" in lines[2] and "0m55s left" in lines[2]
    assert "epoch 2/2" in lines[4] and "0m00s left" in lines[4]


def test_progress_continues_and_counts_hours():
    console, now = plain_console(), [0.0]
    progress = Progress(1000, 10, start=600, console=console, clock=lambda: now[0])
    progress.update(step(601))
    now[0] = 60.0
    progress.update(step(602))
    assert "step 602/1000" in console.file.getvalue()
    assert "6h38m left" in console.file.getvalue()


@pytest.mark.parametrize("wait, hints", [(0.05, 0), (0.4, 1)])
def test_waiting_for_data_is_told_once(wait, hints):
    console = plain_console()
    with Progress(200, 1, console=console) as progress:
        progress.update(step(1, wait=1.0))  # the start of the workers does not count
        for n in range(2, 100):
            progress.update(step(n, wait=wait))
    assert console.file.getvalue().count("Hint:") == hints
    if hints:
        assert "40% of the time goes into waiting for data" in console.file.getvalue()


def test_progress_on_a_terminal_is_one_live_line():
    console = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    with Progress(10, 2, console=console) as progress:
        for n in range(1, 11):
            progress.update(step(n))
    last = console.file.getvalue().splitlines()[-2]  # the last shows the cursor again
    assert "step 10/10" in last and "epoch 2/2 · loss 1.5000" in last


def test_the_parameter_table_adds_up():
    parameters = [
        *[Parameter(f"image/blocks/{i}/tuners/lora/down", (7, 3), "tuned") for i in range(11)],
        Parameter("image/blocks/0/tuners/lora/scale", (), "tuned"),
        Parameter("image/blocks/7/ln1/scale", (13,), "tuned"),
        *[Parameter(f"image/blocks/{i}/mlp/kernel", (7, 100), "frozen") for i in range(11)],
        Parameter("head/weight", (5, 7), "head"),
        Parameter("image/stem/kernel", (7, 13), "frozen"),
        Parameter("scale", (), "frozen"),
    ]
    counts = parameter_counts(parameters)
    assert counts == {"tuned": 245, "head": 35, "frozen": 7792}
    console = plain_console()
    console.print(parameter_table(parameters))
    rows = [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in console.file.getvalue().splitlines()
        if line.startswith("│")
    ]
    assert rows == [
        ["image/blocks/*/tuners/lora", "tuned", "12", "232", "2.874%"],
        ["image/blocks/*", "tuned", "1", "13", "0.161%"],
        ["head", "head", "1", "35", "0.434%"],
        ["image", "frozen", "12", "7,791", "96.519%"],
        ["scale", "frozen", "1", "1", "0.012%"],
    ]


def test_results_are_called_by_the_method():
    names = ["zero-shot", "LIFT", "LIFT, adjusted", "LIFT with TTE", "LIFT with TTE, adjusted"]
    assert list(tables.result_names("LIFT").values()) == names


def test_the_results_table_shows_the_rows_there_are():
    summary = {"overall": 71.234, "many": 80.0, "medium": 70.5, "few": None, "mean": 70.0}
    console = plain_console()
    console.print(tables.results_table({"zero-shot": None, "LIFT+": summary}))
    text = console.file.getvalue()
    assert "zero-shot" not in text
    row = next(line for line in text.splitlines() if "LIFT+" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        "LIFT+",
        "71.23",
        "80.00",
        "70.50",
        "–",
        "70.00",
    ]
