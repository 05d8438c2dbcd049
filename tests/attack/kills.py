"""Commands that are stopped at any moment, and then end as if undisturbed."""

import json
import os
import random
import re
import signal
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path

from lift_jax.runs.weights import export
from tests.attack.commands import finish, start, stop
from tests.attack.engine import Fault, Kind

NAMES = (
    "train", "train", "seeds", "sweep", "report", "data", "prepare", "predict", "calibrate",
    "export", "onnx", "huggingface", "adapters", "merge", "convert", "soup",
)  # fmt: skip
ENDED = (0, 2, 75, 130, -signal.SIGINT, -signal.SIGKILL, -signal.SIGTERM)
TIMES = ("seconds", "images_per_second", "wait")  # keys of results that hold times
TIMED = re.compile(r"[\d.,]+( s| min| h|% of the time)</|>[\d,]+</td>")  # in report.html
BYTES = (".csv", ".md", ".png", ".safetensors", ".array_record", ".onnx", ".py")
JSON = ("config.json", "prepared.json", "calibration.json", "golden.json", "classifier.json")
ONCE = ("export", "onnx", "huggingface", "adapters", "merge", "convert")  # say "exists" then

Moment = tuple[str, float]  # "time" or "files", and a share of those of an undisturbed command


def run_again(name: str, folder: Path) -> None:
    """Runs a command to its end. Raises Fault unless it ends well, or its result is there."""
    process = start(name, folder)
    said = finish(process)
    if process.returncode and not (name in ONCE and "exists" in said):
        raise Fault(f"{name} again: status {process.returncode}: {said[-400:]}")
    left = [p.name for p in folder.rglob("*") if p.name.endswith((".tmp", ".partial"))]
    if left:
        raise Fault(f"{name} left behind: {left}")


# --- any signal: no trace, and the command then ends well ---


def draw_signal(rng: random.Random) -> tuple[str, str, float]:
    return rng.choice(NAMES), rng.choice(("SIGINT", "SIGTERM")), rng.random()


def attempt_signal(case: tuple[str, str, float], folder: Path) -> None:
    """A command that is stopped says no trace, and the same command then ends well."""
    name, which, share = case
    process = start(name, folder)
    time.sleep(0.15 + share * undisturbed(name)[0])  # Python's own start has traces of its own
    stop(process, getattr(signal, which))
    said = finish(process)
    if process.returncode not in ENDED or "Traceback" in said:
        raise Fault(f"{name}: status {process.returncode}: {said[-400:]}")
    run_again(name, folder)


# --- SIGKILL: the command then ends with the same results, byte for byte ---


def draw_kill(rng: random.Random) -> tuple[str, list[Moment]]:
    """Returns a command and one to three moments: in time, or when so many files are there."""
    moments = [(rng.choice(("time", "files")), rng.random()) for _ in range(rng.choice((1, 2, 3)))]
    return rng.choice(NAMES), moments


def attempt_kill(case: tuple[str, list[Moment]], folder: Path) -> None:
    """A command that is killed and run again ends with the results of an undisturbed one."""
    name, moments = case
    seconds, files, wanted = undisturbed(name)
    for how, share in moments:
        process = start(name, folder)
        if how == "time":
            time.sleep(0.1 + share * seconds)
        else:
            wait_for_files(folder, share * files, process)
        stop(process, signal.SIGKILL)
        finish(process)
    run_again(name, folder)
    found = results(folder)
    if found.keys() != wanted.keys():
        raise Fault(f"{name}: other files: {sorted(found.keys() ^ wanted.keys())}")
    if differ := [path for path, content in wanted.items() if found[path] != content]:
        path = differ[0]
        raise Fault(f"{name}: other results in {differ}: {difference(found[path], wanted[path])}")


def difference(found: object, wanted: object) -> str:
    """Returns the first lines that differ, of texts."""
    lines = zip(str(found).splitlines(), str(wanted).splitlines(), strict=False)
    return str(next((pair for pair in lines if pair[0] != pair[1]), ""))[:300]


def wait_for_files(folder: Path, number: float, process: "subprocess.Popen[str]") -> None:
    """Returns once more than so many files and folders are there, or the process has ended."""
    while process.poll() is None and count(folder) <= number:
        time.sleep(0.001)


def count(folder: Path) -> int:
    """Returns the number of files and folders below a folder that may change meanwhile."""
    return sum(len(folders) + len(files) for _, folders, files in os.walk(folder))


@cache
def undisturbed(name: str) -> tuple[float, int, dict[str, object]]:
    """Runs a command to its end; returns its seconds, its number of files, and its results."""
    with tempfile.TemporaryDirectory() as first:
        run_again(name, Path(first) / "work")  # compiles what is kept in the cache
    with tempfile.TemporaryDirectory() as again:
        begin, folder = time.monotonic(), Path(again) / "work"
        run_again(name, folder)
        return time.monotonic() - begin, count(folder), results(folder)


def results(folder: Path) -> dict[str, object]:
    """Returns the results in a folder by path: the bytes of files, without times and paths."""
    found: dict[str, object] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = str(path.relative_to(folder))
        if "checkpoints/" in name or path.name.startswith("events.out"):
            continue  # of checkpoints the tuned weights are read below
        content = path.read_bytes().replace(str(folder).encode(), b"")
        if path.suffix == ".html":
            found[name] = TIMED.sub("", content.decode())
        elif path.name in ("metrics.json", "log.jsonl"):
            lines = [content] if path.suffix == ".json" else content.splitlines()
            found[name] = [
                {k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines
            ]
        elif path.suffix in BYTES or path.name in JSON:
            found[name] = content
        elif path.name != "checksums.json":
            found[name] = None  # of other files it counts that they are there
    for checkpoints in folder.rglob("checkpoints"):
        workdir = checkpoints.parent
        leaves = export.read_tuned(workdir).items()
        found |= {f"{workdir.relative_to(folder)}:{key}": leaf.tobytes() for key, leaf in leaves}
    return found


KINDS = {
    "signals": Kind(draw_signal, attempt_signal, share=2, limit=300),
    "kills": Kind(draw_kill, attempt_kill, share=8, limit=900),
}
