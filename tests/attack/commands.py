"""Commands under attack, in processes of their own, and the finished runs that they read."""

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.attack.engine import Fault
from tests.support.paths import GOLDEN, ROOT

IMAGE = (np.arange(32 * 32 * 3) % 255).astype(np.uint8).reshape(32, 32, 3)
FLAGS = ["--config=demo:debug", "--config.train.epochs=2"]
RESULTS = ("test", "test_tte", "zero_shot", "steps", "tuned_params")


@contextlib.contextmanager
def own_cache(folder: str) -> Iterator[None]:
    """Gives this process and those that it starts a cache of their own."""
    os.environ["XDG_CACHE_HOME"] = folder
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    yield


# --- finished runs ---


def config_of(**changes: Any) -> Any:
    """Returns the config of a run of four steps; `changes` are dotted keys with "__" for "."."""
    from configs import demo

    config = demo.get_config("debug")
    config.train.epochs, config.checkpoint.every_steps, config.checkpoint.keep = 2, 1, 2
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config


def trained(workdir: Path, **changes: Any) -> dict[str, Any]:
    """Runs, or continues, a run of `config_of`; returns its results."""
    from lift_jax.reports import report
    from tests.support.runs import train_and_test

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        found = train_and_test(config_of(**changes), workdir)
        report.write(workdir)
    return {key: found[key] for key in RESULTS}


@cache
def finished(**changes: Any) -> tuple[Path, dict[str, Any]]:
    """Returns a finished run of `config_of`, and its results."""
    workdir = Path(tempfile.mkdtemp()) / "run"
    return workdir, trained(workdir, **changes)


@cache
def photos() -> Path:
    """Returns a folder of 36 photos in three classes."""
    folder, rng = Path(tempfile.mkdtemp()), np.random.default_rng(0)
    for name in "abc":
        (folder / name).mkdir()
        for i in range(12):
            pixels = rng.integers(0, 255, (60, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.jpg")
    return folder


# --- commands ---


def commands(folder: Path) -> dict[str, list[object]]:
    """Returns the commands that write into a folder, as out or out.*, by name."""
    run, another, merging = (
        finished(**changes)[0] for changes in ({}, {"seed": 1}, {"tuner__name": "lora"})
    )
    return {
        "train": ["train", *FLAGS, "--config.checkpoint.every_steps=1", f"--workdir={folder}/out"],
        "seeds": ["train", *FLAGS, "--seeds=2", f"--workdir={folder}/out"],
        "sweep": ["train", *FLAGS, "--sweep=partial", f"--workdir={folder}/out"],
        "report": ["report", run, "--out", f"{folder}/out"],
        "data": ["data", *FLAGS, f"--workdir={folder}/out"],
        "prepare": [
            "data", "--prepare", "--config=folder", f"--config.data.root={photos()}",
            f"--config.data.prepared={folder}/out",
        ],
        "predict": ["predict", f"--run={run}", photos(), f"--to={folder}/out.csv"],
        "export": ["export", f"--run={run}", f"--to={folder}/out.safetensors"],
        "onnx": ["export", f"--run={run}", "--format=onnx", f"--to={folder}/out"],
        "adapters": ["export", f"--run={run}", "--format=adapters", f"--to={folder}/out"],
        "huggingface": ["export", f"--run={merging}", "--format=huggingface", f"--to={folder}/out"],
        "calibrate": ["calibrate", f"--run={folder}/out"],
        "merge": ["merge", f"--run={merging}", f"--to={folder}/out"],
        "convert": ["convert", GOLDEN / "clip_openai.safetensors", folder / "out"],
        "soup": ["soup", run, another, f"--workdir={folder}/out"],
    }  # fmt: skip


def start(name: str, folder: Path) -> "subprocess.Popen[str]":
    """Starts one of `commands`; calibrate works in the copy of a finished run."""
    if name == "calibrate" and not (folder / "out").exists():
        shutil.copytree(finished(data__val_share=0.3)[0], folder / "out")
    return command(*commands(folder)[name])


def command(*arguments: object, **environment: str) -> "subprocess.Popen[str]":
    """Starts a command in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "lift_jax", *map(str, arguments)], cwd=ROOT, text=True,
        env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip


def finish(process: "subprocess.Popen[str]", seconds: float = 120) -> str:
    """Waits until a process ends; returns what it said. Raises Fault, and ends it, if it hangs."""
    try:
        return process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        stop(process, signal.SIGKILL)
        raise Fault(f"still running after {seconds} s") from None


def stop(process: "subprocess.Popen[str]", number: signal.Signals) -> None:
    """Sends a signal to a process and those that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
