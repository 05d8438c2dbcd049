"""Every command on a disk that becomes full at any of its writes: one line, nothing lost."""

import errno
import gc
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.commands import run_command
from support.figures import draw_once
from support.full_disk import full_disk
from support.paths import ROOT
from support.runs import saved_leaves

pytestmark = [
    pytest.mark.slow,  # whole runs
    # libraries leave open what they could not write
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]

DEMO = "--config=configs/demo.py:debug"


@pytest.fixture(autouse=True)
def nothing_is_left_to_other_tests():
    """Collects here what libraries left open, where the warnings of it are expected."""
    yield
    gc.collect()


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
    "sweep": (["train", DEMO, "--workdir=NEW", "--sweep=partial"], ["sweep.csv", "sweep.png"]),
}

STRIDES = {
    "train": 3,
    "soup": 4,
    "seeds": 11,
    "sweep": 13,
    "compare": 5,
    "data": 3,
}  # writes from one try to the next


def arguments(words, made, new):
    for name, path in (("MADE", made), ("IMAGES", made / "images"), ("NEW", new)):
        words = [word.replace(name, str(path)) for word in words]
    return [word.replace("COPY", str(new / "copy")) for word in words]


def remove_unfinished(new):
    """Removes checkpoints that threads still write, which end with the process otherwise."""
    for _ in range(50):
        unfinished = list(new.rglob("*orbax-checkpoint-tmp*"))
        if not unfinished:
            return
        for path in unfinished:
            shutil.rmtree(path, ignore_errors=True)
        time.sleep(0.05)


def contents(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_disk_that_becomes_full(name, made, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(os, "_exit", lambda status: (_ for _ in ()).throw(SystemExit(status)))
    draw_once(monkeypatch)
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
        left = [p for p in tmp_path.rglob("*") if p.name.endswith((".tmp", ".partial"))]
        assert not left
        assert contents(made) == before
        remove_unfinished(new)
        after += STRIDES.get(name, 1)
    for file in expected:
        path = Path(arguments([file], made, new)[0])
        assert (path if path.is_absolute() else new / file).stat().st_size > 0
    if name == "train":
        ours, theirs = saved_leaves(new), saved_leaves(made / "a")
        assert all(np.array_equal(ours[path], theirs[path]) for path in theirs)


def test_a_cache_that_cannot_be_written_is_not_needed(made, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shown = []
    for name, code in (("usual", 0), ("full", errno.ENOSPC), ("read-only", errno.EROFS)):
        demo = [*FOLDER, "--config.model.backbone=demo", "--config.data.features_gb=1"]
        words = arguments(["train", *demo, "--config.train.augment=none", "--workdir=NEW"], made,
                          tmp_path / name)  # fmt: skip
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        with full_disk(tmp_path / "cache", 0 if code else 10**9, code):
            run_command(*words)
        assert any((tmp_path / "cache").rglob("*")) == (not code)
        shown.append(saved_leaves(tmp_path / name))
    for other in shown[1:]:
        for path, leaf in other.items():
            np.testing.assert_allclose(leaf, shown[0][path], atol=1e-4)


def test_a_wrong_place_is_told_before_the_work(made, tmp_path, capsys):
    for to in (made / "images", made / "images" / "x" / "0.png" / "a.csv"):
        with pytest.raises(SystemExit) as stopped:
            run_command("predict", "--run=nowhere", made / "images", f"--to={to}")
        err = capsys.readouterr().err
        assert stopped.value.code == 2 and "--to" in err and err.count("\n") == 1


def test_a_real_limit_on_shards(made, tmp_path):
    """The library that writes shards fails in its own way, which is a line as well."""
    words, _ = COMMANDS["prepare"]
    command = [sys.executable, "-m", "lift_jax", *arguments(words, made, tmp_path / "p")]
    for limit in (100, 3_000, 50_000, resource.RLIM_INFINITY):
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=100,
            preexec_fn=lambda limit=limit: resource.setrlimit(
                resource.RLIMIT_FSIZE, (limit, limit)
            ),
        )  # fmt: skip
        if limit == resource.RLIM_INFINITY:
            assert done.returncode == 0 and (tmp_path / "p" / "prepared.json").exists()
        else:
            assert done.returncode == 2 and "File too large. Lift the limit" in done.stderr
        assert not list(tmp_path.rglob("*.tmp"))


def test_a_real_limit_ends_a_run_with_a_line(tmp_path):
    """The system refuses files of more than some kB, and the same command continues without."""
    command = [sys.executable, "-m", "lift_jax", "train", DEMO, f"--workdir={tmp_path / 'w'}"]

    def run(limit):
        return subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=100,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        )  # fmt: skip

    for limit in (2_000, 200_000):  # a checkpoint and the report are larger
        done = run(limit)
        assert done.returncode == 2, done.stderr
        assert done.stderr.count("error: ") == 1 and "Traceback" not in done.stderr, done.stderr
    assert "No report" in done.stderr and "results are kept" in done.stderr
    done = run(resource.RLIM_INFINITY)
    assert done.returncode == 0 and (tmp_path / "w" / "report.html").exists(), done.stderr
