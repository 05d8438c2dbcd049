"""Tests of the documentation: commands parse and run, links resolve, settings are current."""

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image
from support.commands import run_command
from support.paths import ROOT

from lift_jax.commands import COMMANDS
from lift_jax.commands.line import dispatch, parsing
from lift_jax.settings import document, parse
from lift_jax.settings.config_file import open_config, override, shipped_names
from lift_jax.sweeps.cells import SWEEPS

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def blocks(page: Path, language: str) -> list[str]:
    """Returns the code blocks of a page in a language."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def commands() -> list[tuple[str, str]]:
    """Returns every command line of the package in the pages' sh blocks, with its page."""
    found = []
    for page in PAGES:
        for block in blocks(page, "sh"):
            lines = block.replace("\\\n", " ").splitlines()
            found += [
                (page.name, line.strip())
                for line in lines
                if re.match(r"(lift-jax|python -m lift_jax)", line.strip())
            ]
    return found


def arguments_of(line: str) -> list[str]:
    """Returns the command and its arguments, from any of the ways to type it."""
    words = shlex.split(line, comments=True)
    if words[0] == "lift-jax":
        return words[1:]
    module, rest = words[2], words[3:]
    name = module.removeprefix("lift_jax").removeprefix(".")
    return ([{"main": "train"}.get(name, name)] if name else []) + rest


def test_there_are_commands_of_every_kind():
    assert {arguments_of(line)[0] for _, line in commands()} >= COMMANDS.keys() - {"settings"}


@pytest.mark.parametrize(("page", "line"), commands())
def test_every_command_parses(page, line):
    name, *rest = arguments_of(line)
    if name.startswith("--"):
        return
    module = dispatch.module_of(name)
    parser = parsing.Parser(prog=f"lift-jax {name}")
    module.add_arguments(parser)
    rest, assignments = parsing.take_assignments(rest)
    rest = [word for word in rest if word != "..."]
    flags, unknown = parser.parse_known_args(rest)
    assert not unknown, f"{page}: {line}"
    if not parser.get_default("takes_settings") or not flags.config or flags.config == "...":
        return
    config, _, argument = flags.config.partition(":")
    if config.endswith(".py") and not (ROOT / config).exists():
        config = "base"  # a file of the reader's own
        argument = ""
    assert config in shipped_names() or (ROOT / config).exists(), f"{page}: {line}"
    path = str(ROOT / config) if "/" in config else config
    chosen = open_config(f"{path}:{argument}")
    override(chosen.config, [(k, v) for k, v in assignments if v != "..."])
    parse(chosen.config)
    if getattr(flags, "sweep", ""):
        assert flags.sweep in SWEEPS or flags.sweep.isupper(), f"{page}: {line}"


@pytest.mark.slow
def test_the_first_screens_run(tmp_path, monkeypatch, capsys):
    """Train, predict, report, merge, export, soup, data and bench run as the pages type them."""
    monkeypatch.chdir(tmp_path)
    short = ["--config.train.epochs=1", "--config.test.tte=False"]
    run_command("train", "--config=demo", "--workdir=runs/demo", *short)
    assert (tmp_path / "runs" / "demo" / "report.html").exists()
    for name, colour in (("red_fox", (200, 60, 20)), ("arctic_hare", (230, 230, 235))):
        for i in range(4):
            path = tmp_path / "photos" / name / f"{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40 + i, 50), colour).save(path)
    own = ["--config=folder:backbone=demo", "--config.data.root=photos"]
    run_command("data", *own, "--workdir=runs/photos_data")
    run_command("train", *own, "--workdir=runs/photos", *short, "--config.test.expand=4")
    run_command("predict", "--run=runs/photos", "photos", "--top_k=2", "--to=named.csv")
    assert (tmp_path / "named.csv").read_text().count("red_fox") >= 8
    run_command("report", "runs/demo", "runs/photos")
    run_command("export", "--run=runs/photos", "--to=tuned.safetensors")
    run_command("settings", "train.lr")
    assert "red_fox" in capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_compile(page):
    for block in blocks(page, "python"):
        compile(block, page.name, "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http", "#")):
            path = (page.parent / target.partition("#")[0]).resolve()
            assert path.exists(), f"{page.name}: {target}"


def test_the_readme_is_for_a_first_visit():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 180


def test_the_page_of_settings_is_current():
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert page == document.markdown(), "run: lift-jax settings --markdown > docs/settings.md"
