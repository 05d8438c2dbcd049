"""Attacks on runs: damaged folders, signals, two writers, and processes that differ."""

import contextlib
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tests import chaos
from tests.attack import functions
from tests.attack.engine import Fault, Kind
from tests.support.paths import ROOT

IMAGE = (np.arange(32 * 32 * 3) % 255).astype(np.uint8).reshape(32, 32, 3)
RESULTS = ("test", "test_tte", "zero_shot", "steps", "tuned_params")
DAMAGES = ("empty", "cut", "flip", "folder", "other", "gone")
ENDED = (0, 2, 75, 130, -signal.SIGINT, -signal.SIGKILL, -signal.SIGTERM)


@contextlib.contextmanager
def own_cache(folder: str) -> Iterator[None]:
    """Gives this process and those that it starts a cache of their own."""
    os.environ["XDG_CACHE_HOME"] = folder
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    yield


def config_of() -> Any:
    from configs import demo

    config = demo.get_config("debug")
    config.train.epochs, config.checkpoint.every_steps, config.checkpoint.keep = 2, 1, 2
    return config


def trained(workdir: Path) -> dict[str, Any]:
    """Runs, or continues, the run of `config_of`; returns what counts of its results."""
    from lift_jax.reports import report
    from tests.support.runs import train_and_test

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        found = train_and_test(config_of(), workdir)
        report.write(workdir)
    return {key: found[key] for key in RESULTS}


@cache
def finished() -> tuple[Path, dict[str, Any], Any]:
    """Returns a finished run, its results, and its prediction for an image."""
    import lift_jax

    workdir = Path(tempfile.mkdtemp()) / "run"
    results = trained(workdir)
    return workdir, results, lift_jax.Predictor(workdir).predict(IMAGE)


@cache
def mergeable() -> Path:
    """Returns a finished run whose tuner can be merged."""
    from tests.support.runs import train_and_test

    config, workdir = config_of(), Path(tempfile.mkdtemp()) / "run"
    config.tuner.name = "lora"
    with contextlib.redirect_stdout(io.StringIO()):
        train_and_test(config, workdir)
    return workdir


# --- damage ---


def draw_damage(rng: random.Random) -> tuple[str, str, float]:
    workdir = finished()[0]
    names = sorted(str(p.relative_to(workdir)) for p in workdir.rglob("*") if p.is_file())
    return rng.choice(names), rng.choice(DAMAGES), rng.random()


def attempt_damage(case: tuple[str, str, float], folder: Path) -> None:
    """Prediction and report end right or in a line; the run's command gives the same results."""
    import lift_jax
    from lift_jax.errors import UserError
    from lift_jax.reports import report

    name, how, place = case
    first, wanted, predicted = finished()
    workdir = folder / "run"
    shutil.copytree(first, workdir)
    path = workdir / name
    content = path.read_bytes()
    at = int(place * len(content))
    if how == "flip" and content:
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    elif how == "cut":
        path.write_bytes(content[:at])
    elif how == "other":
        shutil.copy(workdir / "metrics.json", path.with_name("x"))
        path.with_name("x").rename(path)
    else:
        path.unlink()
        if how == "folder":
            path.mkdir()
        elif how != "gone":
            path.write_bytes(b"")
    quiet = contextlib.redirect_stderr(io.StringIO())
    with quiet, contextlib.suppress(UserError):
        found = lift_jax.Predictor(workdir).predict(IMAGE)
        if how != "other" and found != predicted and "checkpoints" not in name:
            raise Fault("another prediction")
    with quiet, contextlib.suppress(UserError):
        report.write(workdir)
    if trained(workdir) != wanted:
        raise Fault("other results after the run was continued")


# --- commands that are stopped at any moment ---


def command(*arguments: object, **options: Any) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "lift_jax", *map(str, arguments)], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True, **options,
    )  # fmt: skip


def commands(folder: Path) -> dict[str, list[object]]:
    """Returns commands that write into a folder, by name."""
    run, flags = finished()[0], ["--config=demo:debug", "--config.train.epochs=2"]
    return {
        "train": ["train", *flags, f"--workdir={folder}/out"],
        "seeds": ["train", *flags, "--seeds=2", f"--workdir={folder}/out"],
        "report": ["report", run, "--out", f"{folder}/out"],
        "data": ["data", *flags, f"--workdir={folder}/out"],
        "predict": ["predict", f"--run={run}", folder / "image.png", f"--to={folder}/out.csv"],
        "export": ["export", f"--run={run}", f"--to={folder}/out.safetensors"],
        "merge": ["merge", f"--run={mergeable()}", f"--to={folder}/out"],
    }


def draw_signal(rng: random.Random) -> tuple[str, str, float]:
    names = ("train", "train", "seeds", "report", "data", "predict", "export", "merge")
    seconds = rng.choice((1, 4, 8)) * rng.random()
    return rng.choice(names), rng.choice(("SIGINT", "SIGTERM", "SIGKILL")), 0.15 + seconds


def attempt_signal(case: tuple[str, str, float], folder: Path) -> None:
    """A command that is stopped says no trace, and the same command then ends well."""
    from PIL import Image

    name, which, seconds = case
    Image.fromarray(IMAGE).save(folder / "image.png")
    process = command(*commands(folder)[name])
    time.sleep(seconds)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, getattr(signal, which))
    said = finish(process)
    if process.returncode not in ENDED or "Traceback" in said:
        raise Fault(f"status {process.returncode}: {said[-400:]}")
    again = command(*commands(folder)[name])
    said = finish(again)
    if again.returncode and not (name in ("export", "merge") and "exists" in said):
        raise Fault(f"again: status {again.returncode}: {said[-400:]}")
    left = [p.name for p in folder.rglob("*") if p.name.endswith((".tmp", ".partial"))]
    if left:
        raise Fault(f"left behind: {left}")


def finish(process: "subprocess.Popen[str]") -> str:
    try:
        return process.communicate(timeout=60)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise Fault("still running after 60 s") from None


# --- chaos: runs that are killed, starved and torn, and end as if nothing had been ---


@cache
def straight() -> dict[str, dict[str, np.ndarray]]:
    return chaos.straight(Path(tempfile.mkdtemp()) / "straight")


def attempt_chaos(case: tuple[str, int], folder: Path) -> None:
    fault, seed = case
    try:
        _, last = chaos.one_run(fault, folder / "W", random.Random(seed))
        first = chaos.begins_on(fault)
        chaos.compare(folder / "W", straight()[first], exact=last == first)
    except chaos.Fault as error:
        raise Fault(str(error)) from error


# --- two writers, and processes that differ ---


def attempt_writers(case: float, folder: Path) -> None:
    """Of two commands on one run folder, one ends well and the other is refused in a line."""
    arguments = commands(folder)["train"]
    first = command(*arguments)
    time.sleep(case)
    second = command(*arguments)
    said = [finish(first), finish(second)]
    codes = sorted((first.returncode, second.returncode))
    refused = sum("is being written by process" in text for text in said)
    if codes not in ([0, 0], [0, 2]) or (codes == [0, 2]) != (refused == 1):
        raise Fault(f"statuses {codes}: {[text[-300:] for text in said]}")


DIFFERENT = (
    ("train.lr", "0.5"), ("seed", "3"), ("train.epochs", "3"), ("loss.name", "ce"),
    ("tuner.dim", "3"), ("test.tte", "false"), ("head.scale", "9"), ("model.precision", "bfloat16"),
)  # fmt: skip


def attempt_processes(case: tuple[str, str], folder: Path) -> None:
    """Two processes of which one has another setting end in a line, and write nothing."""
    key, value = case
    with chaos.socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = ["train", "--config=demo:debug", f"--workdir={folder}/W", "--process_count=2"]
    shared += [f"--coordinator=127.0.0.1:{port}"]
    each = [command(*shared, f"--process_id={i}", *([f"--config.{key}={value}"] * i))
            for i in range(2)]  # fmt: skip
    said = [finish(process) for process in each]
    codes = [process.returncode for process in each]
    if codes != [2, 2] or not all(key in text for text in said):
        raise Fault(f"{key}: statuses {codes}: {[text[-300:] for text in said]}")
    if list((folder / "W").rglob("*.json")):
        raise Fault(f"{key}: something was written")


KINDS = {
    "builds": Kind(functions.draw_setting, functions.attempt_build, slow=True, limit=30),
    "damage": Kind(draw_damage, attempt_damage, slow=True, limit=60),
    "signals": Kind(draw_signal, attempt_signal, slow=True, limit=150),
    "chaos": Kind(
        lambda rng: (rng.choice(chaos.FAULTS), rng.randrange(10**6)), attempt_chaos, slow=True,
        limit=300,
    ),
    "writers": Kind(lambda rng: 5 * rng.random(), attempt_writers, slow=True, limit=150),
    "processes": Kind(lambda rng: rng.choice(DIFFERENT), attempt_processes, slow=True, limit=150),
}  # fmt: skip
