"""Every command on a disk that becomes full at any of its writes: one line, nothing lost."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.commands import run_command
from support.full_disk import full_disk

pytestmark = pytest.mark.slow  # whole runs

DEMO = "--config=configs/demo.py:debug"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Returns a folder with two finished runs, a and b, and a folder of images."""
    folder = tmp_path_factory.mktemp("made")
    run_command("train", DEMO, f"--workdir={folder / 'a'}")
    run_command("train", DEMO, "--config.train.lr=0.1", f"--workdir={folder / 'b'}")
    lora = "--config.tuner.name=lora"
    run_command("train", DEMO, lora, f"--workdir={folder / 'lora'}")

    for k in range(24):
        place = folder / "images" / "xyz"[k % 3] / f"{k}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(k).integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place)
    return folder


FOLDER = [
    "--config=folder:backbone=debug",
    "--config.data.val_share=0",
    "--config.data.root=IMAGES",
]
# command, its arguments, and the files that it must have written at the end
COMMANDS = {
    "train": (["train", DEMO, "--workdir=NEW"], ["metrics.json", "report.html"]),
    "report": (["report", "COPY"], ["COPY/report.html"]),
    "compare": (["report", "COPY", "MADE/b", "--out=NEW"], ["report_compare.html"]),
    "predict": (["predict", "--run=MADE/a", "IMAGES", "--to=NEW/found.csv"], ["found.csv"]),
    "soup": (["soup", "MADE/a", "MADE/b", "--workdir=NEW"], ["soup.csv", "report.html"]),
    "data": (["data", *FOLDER, "--workdir=NEW"], ["classes.csv", "views.png"]),
    "prepare": (["data", "--prepare", *FOLDER, "--config.data.prepared=NEW"], ["prepared.json"]),
    "export": (["export", "--run=MADE/a", "--to=NEW/t.safetensors"], ["t.safetensors"]),
    "merge": (["merge", "--run=MADE/lora", "--to=NEW/m"], ["m/backbone.safetensors"]),
    "convert": (["convert", "demo", "NEW"], ["backbone.safetensors", "tokenizer_config.json"]),
    "seeds": (["train", DEMO, "--workdir=NEW", "--seeds=2"], ["sweep.csv", "seed_1/report.html"]),
}


def arguments(words, made, new):
    for name, path in (("MADE", made), ("IMAGES", made / "images"), ("NEW", new)):
        words = [word.replace(name, str(path)) for word in words]
    return [word.replace("COPY", str(new / "copy")) for word in words]


def contents(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_disk_that_becomes_full(name, made, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(os, "_exit", lambda status: (_ for _ in ()).throw(SystemExit(status)))
    words, expected = COMMANDS[name]
    new, before = tmp_path / "new", contents(made)
    if "COPY" in words:
        shutil.copytree(made / "a", new / "copy")
        (new / "copy" / "report.html").unlink()
    after, done = 0, False
    while not done:
        capsys.readouterr()
        with full_disk(tmp_path, after) as writes:
            try:
                run_command(*arguments(words, made, new))
                done = len(writes) <= after
                assert done, f"{name} hides that {writes[after]} failed"
            except SystemExit as stopped:
                err = capsys.readouterr().err
                lines = [line for line in err.splitlines() if line.startswith("error: ")]
                assert stopped.code == 2 and len(lines) == 1 and "Traceback" not in err, err
                assert "No space left" in err, err
                print(f"{after}: {writes[after]}: {err}")
        left = [p for p in tmp_path.rglob("*") if p.name.endswith((".tmp", ".partial"))]
        assert not left
        assert contents(made) == before
        after += 1
    for file in expected:
        path = Path(arguments([file], made, new)[0])
        assert (path if path.is_absolute() else new / file).stat().st_size > 0
