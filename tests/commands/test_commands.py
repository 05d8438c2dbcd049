"""Tests of the command line: help, one line for each mistake, and modules that are no commands."""

import os
import runpy
import subprocess
import sys
import time
from argparse import Namespace

import pytest
from support.paths import ROOT

import lift_jax
from lift_jax import main
from lift_jax.commands import COMMANDS
from lift_jax.commands.line import dispatch, parsing
from lift_jax.settings.config_file import open_config
from lift_jax.settings.schema import all_entries


def run(*arguments: str, module: str = "lift_jax", cwd=ROOT) -> subprocess.CompletedProcess:
    """Runs a module of the package as a user does."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=cwd, env=environment,
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip


def said(capsys, *arguments: str) -> tuple[object, str, str]:
    """Returns exit status, output and errors of a command in this process."""
    with pytest.raises(SystemExit) as exit:
        dispatch.main(arguments)
    out, err = capsys.readouterr()
    return exit.value.code, out, err


@pytest.mark.parametrize("arguments", [(), ("--help",), ("help",)])
def test_help_names_every_command(arguments, capsys):
    status, out, _ = said(capsys, *arguments)
    assert status == 0
    for name, text in COMMANDS.items():
        assert f"  {name} " in out and text in out


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command_has_examples_and_explains_every_option(name, capsys):
    status, out, _ = said(capsys, name, "--help")
    assert status == 0
    assert f"lift-jax {name} " in out.partition("options:")[0].partition("\n\n")[2]  # an example
    module = dispatch.module_of(name)
    parser = parsing.Parser(prog=name)
    module.add_arguments(parser)
    for action in parser._actions:
        assert action.help, f"{name}: {action.dest}"


HEAVY = "jax flax optax orbax fsspec matplotlib scipy numpy PIL rich".split()


def test_help_is_quick_because_it_imports_little():
    code = f"""
import contextlib, io, sys
from lift_jax.commands.line import dispatch
for arguments in [], *([name] for name in {list(COMMANDS)}):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            dispatch.main([*arguments, "--help"])
        except SystemExit as end:
            assert end.code == 0, (arguments, end.code)
    assert "usage: lift-jax" in out.getvalue(), arguments
    slow = set({HEAVY}) & sys.modules.keys()
    assert not slow, (arguments, slow)
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


@pytest.mark.parametrize("module", ["lift_jax", "lift_jax.main"])
def test_help_of_a_started_module_is_quick(module):
    begin = time.monotonic()
    done = run("--help", module=module)
    seconds = time.monotonic() - begin
    assert done.returncode == 0 and done.stdout and not done.stderr
    assert seconds < 5  # 0.1 s on a free machine


PROGRAMS = sorted(
    str(file.relative_to(ROOT))
    for folder in ("lift_jax", "tests")
    for file in (ROOT / folder).rglob("*.py")
    if not file.name.startswith("test_") and '\nif __name__ == "__main__":' in file.read_text()
)


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_has_help(program, capsys, monkeypatch):
    assert "lift_jax/demo/pretrain.py" in PROGRAMS and "tests/browser.py" in PROGRAMS
    monkeypatch.setattr(sys, "argv", [program, "--help"])
    monkeypatch.setattr(sys, "path", [*sys.path])  # some put the repository there
    with pytest.raises(SystemExit) as exit:
        runpy.run_path(str(ROOT / program), run_name="__main__")
    out, err = capsys.readouterr()
    assert (exit.value.code, err) == (0, "") and out.startswith("usage: ")


def test_help_of_a_command_by_either_order(capsys):
    assert said(capsys, "help", "soup") == said(capsys, "soup", "--help")
    status, _, err = said(capsys, "help", "suop")
    assert status == 2 and "Did you mean 'soup'" in err


def test_version(capsys):
    assert said(capsys, "--version")[:2] == (0, f"{lift_jax.__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian", "--config=demo"], ["Unknown command 'trian'", "Did you mean 'train'"]),
        (["--versoin"], ["unknown option --versoin", "Did you mean --version?"]),
        (["--config=demo"], ["unknown option --config", "The command comes first"]),
        (["train", "--config=demo", "--wordkir=x"], ["--wordkir", "--workdir"]),
        (["train", "--config=demo", "stray"], ["unexpected arguments: stray"]),
        (["train", "--config=demo", "--seeds=two"], ["--seeds: 'two' is not a whole number"]),
        (["train", "--workdir=x"], ["--config is missing", "--config=demo"]),
        (["train", "--config=demo"], ["--workdir is missing", "--workdir=runs/demo"]),
        (["train", "--config=demo", "--workdir="], ["--workdir= is empty"]),
        (["train", "--config=demo", "--workdir", ""], ["an argument is empty"]),
        (["train", "--config=demo", "--workdir=x", "--config.train=3"], ["settings train"]),
        (["train", "--config=demo", "--workdir=x", "--mode=trian"], ["trian", "train"]),
        (["train", "--config=demo", "--config.train.lrr=1"], ["train.lrr", "train.lr"]),
        (["predict", "a.jpg"], ["--run"]),
        (["predict", "--run=x", ""], ["an argument is empty"]),
        (["predict", "--run=x", "--", ""], ["an argument is empty"]),
        (["predict", "--run=x", "a.jpg", "--to="], ["--to= is empty"]),
        (["predict", "--run=x", "a.jpg", "--to=b.txt"], ["b.txt (--to)", "'.txt'", ".jsonl"]),
        (["predict", "--run=x", "a.jpg", "--to=b"], ["b (--to)", "'nothing'", ".csv"]),
        (["predict", "--run=x", "a.jpg", "--unknown=x"], ["--unknown: 'x' is not a number"]),
        (["calibrate", "--run=x", "--keep=much"], ["--keep: 'much' is not a number"]),
        (["predict", "--run=x", "--config.train.lr=1", "a.jpg"], ["--config.train.lr"]),
        (["convert", "a"], ["DEST"]),
        (["convert", "a", "b", "--dtype=int8"], ["int8", "bfloat16"]),
        (["bench", "--config=demo"], ["--classes=8142"]),
        (["bench", "--config=demo", "--aot", "--against=plain"], ["give one of them"]),
        (["bench", "--only=data", "--against=plain"], ["--only=data times no step"]),
        (["settings", "--markdown", "train.lr"], ["leave train.lr out"]),
        (["bench", "--config=demo", "--classes=9", "--steps=0"], ["--steps is 0", "at least 1"]),
        (["bench", "--config=demo", "--classes=9", "--devices=4"], ["--devices", "--aot"]),
        (["bench", "--config=demo", "--classes=9", "--images=4"], ["--images", "--aot"]),
        (["bench", "--config=demo", "--classes=9", "--aot", "--devices=0"], ["--devices is 0"]),
        (["bench", "--config=demo", "--classes=9", "--aot", "--images=-5"], ["--images is -5"]),
        (["data", "--config=demo", "--prepare", "--prepare_size=-5"], ["--prepare_size is -5"]),
        (["data", "--config=demo", "--prepare_size=9"], ["--prepare_size", "--prepare,"]),
        (["settings", "train.lrr"], ["train.lrr", "train.lr", "`lift-jax settings` lists all"]),
    ],
    ids=str,
)
def test_a_mistake_is_one_line_and_status_2(arguments, words, capsys):
    status, out, err = said(capsys, *arguments)
    assert status == 2
    assert err.startswith("error: ") and err.count("\n") == 1 and not out
    for word in words:
        assert word in err


def test_settings_come_in_every_form():
    rest, found = parsing.take_assignments(
        ["--config=demo", "--config.train.lr=0.1", "--config.train.epochs", "3", "--workdir=w",
         "--config.data.exif", "--config.seed", "-1", "--noconfig.test.tte",
         "--config.head.prompt=a=b"]
    )  # fmt: skip
    assert rest == ["--config=demo", "--workdir=w"]
    assert found == [
        ("train.lr", "0.1"), ("train.epochs", "3"), ("data.exif", None), ("seed", "-1"),
        ("test.tte", "false"), ("head.prompt", "a=b"),
    ]  # fmt: skip


def test_settings_are_listed_and_explained(capsys):
    dispatch.main(["settings"])
    out = capsys.readouterr().out
    for key in all_entries():
        assert f"{key}\n    " in out
    dispatch.main(["settings", "train.lr"])
    out = capsys.readouterr().out
    assert out.startswith("train.lr\n    Learning rate") and "0.01 (method=lift)" in out
    dispatch.main(["settings", "mesh"])
    assert capsys.readouterr().out.count("mesh.") >= 3


def test_a_command_runs_by_its_module_too(tmp_path):
    done = run("train.lr", module="lift_jax.settings", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith("train.lr\n")
    done = run("--help", module="lift_jax.predict", cwd=tmp_path)
    assert done.returncode == 0 and "usage: lift-jax predict" in done.stdout


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("lift_jax.train", "python -m lift_jax train"),
        ("lift_jax.training.loop", "python -m lift_jax train"),
        ("lift_jax.runs.weights.soup", "python -m lift_jax soup"),
        ("lift_jax.reports.report", "python -m lift_jax report"),
        ("lift_jax.models", "python -m lift_jax COMMAND"),
    ],
)
def test_a_module_that_is_no_command_says_which_to_use(module, command):
    done = run(module=module)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith(f"error: {module} is not a command. Use: {command}")
    assert done.stderr.count("\n") == 1


def test_a_config_file_may_have_any_encoding(tmp_path):
    (tmp_path / "mine.py").write_bytes(
        b"# -*- coding: latin-1 -*-\n# caf\xe9\nfrom configs.demo import get_config\n"
    )
    flags = Namespace(mode="train", sweep="", sweep_cells="", seeds=1)
    asked = main.asked_for(open_config(str(tmp_path / "mine.py")), flags)
    assert "caf\\xe9" in asked["the text of the config file"]
