"""Tests of the bench's results as a file, and of the comparison of two."""

import json

import pytest
from rich.console import Console
from support.commands import run_command

from lift_jax.benchmarks import results
from lift_jax.errors import UserError

ABOUT = {"only": "step", "device": "1 x cpu"}


def result(about=ABOUT, **seconds):
    return results.Result(about, seconds)


def test_ratios_by_hand(tmp_path):
    path, console = tmp_path / "a.json", Console(record=True, width=200)
    results.write(path, result(step=[0.010, 0.020, 0.040], read=[1.0]))
    now = result(ABOUT | {"device": "1 x gpu"}, step=[0.005, 0.020, 0.030], read=[3.0])
    assert results.compare(now, results.read(path), path, console) == {"step": 0.75, "read": 3.0}
    said = console.export_text()
    assert f"device is 1 x gpu here, 1 x cpu in {path}" in said and "only is" not in said
    row = next(line for line in said.splitlines() if "step" in line)
    assert [cell.strip() for cell in row.strip("│ ").split("│")] == [
        "step", "18.33", "23.33", "0.750", "0.500", "1.000",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (result(ABOUT | {"only": "data"}, step=[1.0]), "Time the same"),
        (result(other=[1.0]), "timed other; this bench timed step"),
        (result(step=[1.0, 2.0]), "has 2 times of step, and this bench 1"),
    ],
)
def test_results_that_make_no_pairs(other, said, tmp_path):
    with pytest.raises(UserError, match=said):
        results.compare(result(step=[1.0]), other, tmp_path / "a.json", Console(quiet=True))


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "{}", '{"version": 2, "about": {}, "seconds": {"a": [1]}}']
    + [json.dumps({"version": 1, "about": {}, "seconds": s}) for s in ({}, {"a": []}, {"a": [0]},
       {"a": ["1"]}, [1], {"a": 1})],
)  # fmt: skip
def test_files_that_are_no_results(content, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(UserError, match="a.json.*bench --json=FILE"):
        results.read(path)


def test_the_command(tmp_path, capsys):
    flags = ["--config=folder:debug", "--classes=8", "--steps=3"]
    run_command("bench", *flags, f"--json={tmp_path}/a.json")
    times = json.loads((tmp_path / "a.json").read_text())["seconds"]["training step"]
    assert len(times) == 3 and min(times) > 0
    run_command("bench", *flags, f"--compare={tmp_path}/a.json")
    said = capsys.readouterr().out
    assert "training step" in said and "The two differ" not in said
    for wrong in ([*flags, f"--compare={tmp_path}/no.json"], [*flags, "--aot", "--json=a.json"]):
        with pytest.raises(SystemExit):
            run_command("bench", *wrong)
