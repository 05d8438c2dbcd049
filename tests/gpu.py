"""Checks that need an accelerator, as one script that prints one table and ends within minutes.

    python -m tests.gpu            on a GPU
    python -m tests.gpu --small    the same parts at small sizes, on any machine

The table gives the time of training steps, also against the plain formulas, the tests of one
device, a run of the demo, a run that is killed and continued, and the share of time that a run from
prepared JPEGs waits for data. The exit status is 1 if a part fails.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import logging

from tests import fullsize

ROOT = Path(__file__).parent.parent
STEP = ["lift_jax", "bench", "--config=inat", "--classes=8142"]
STEPS = [
    ("clip_vit_b16", 128, "none"), ("clip_vit_b16", 128, "dots"), ("clip_vit_b16", 512, "none"),
    ("clip_vit_l14", 64, "none"), ("clip_vit_l14", 128, "none"),
]  # fmt: skip
ONE_DEVICE = [
    "tests/models/test_heads.py", "tests/models/test_models.py", "tests/training/test_losses.py",
    "tests/tuners/test_tuners.py", "tests/training/test_step.py",
]  # fmt: skip
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
CLASSES, COPIES, BATCH, EPOCHS = 64, 100, 128, 6  # 300 steps


class Failed(Exception):
    """A part that did not end as it should."""


def run(*arguments: str, limit: float = 300, **environment: str) -> str:
    """Runs a Python module to its end; returns its output. Raises Failed for another status."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, env=os.environ | environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=limit,
    )  # fmt: skip
    if done.returncode:
        raise Failed(f"{' '.join(arguments)}: status {done.returncode}\n{done.stdout[-3000:]}")
    return done.stdout


def steps(small: bool, folder: Path) -> str:
    """Returns the line of the bench for each backbone, batch size and rule of recomputation."""
    lines = []
    for backbone, batch, remat in [("debug", 8, "none")] if small else STEPS:
        flags = [f"--config.model.backbone={backbone}", f"--config.train.batch={batch}"]
        out = run(*STEP, *flags, f"--config.train.remat={remat}", "--steps=20")
        last = [line for line in out.splitlines() if " ms a step" in line or "Peak" in line]
        lines.append(f"remat={remat}: {' '.join(last)}")
    return "\n".join(lines)


def lean(small: bool, folder: Path) -> str:
    """Returns the rows of the bench on backward passes that keep few arrays, against plain ones.

    They are taken on CPUs alone (`models.blocks.backward.is_lean`) until this shows a gain here.
    """
    backbone, batch = ("debug", 8) if small else ("clip_vit_b16", 128)
    flags = [f"--config.model.backbone={backbone}", f"--config.train.batch={batch}"]
    out = run(*STEP, *flags, "--against=plain", "--steps=20", COLUMNS="200")
    return "\n".join(line for line in out.splitlines() if "│" in line)


def tests_of_one_device(small: bool, folder: Path) -> str:
    """Returns the summary of pytest for the tests that run on one device."""
    files = ONE_DEVICE[:1] if small else ONE_DEVICE
    platforms = {} if small else {"JAX_PLATFORMS": "cuda,cpu"}
    exact = {"JAX_DEFAULT_MATMUL_PRECISION": "highest", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    out = run("pytest", "-q", "-W", "default", "-n", "4", *files, **platforms, **exact)
    return out.splitlines()[-1]


def demo(small: bool, folder: Path) -> str:
    """Returns accuracy and seconds of a whole run of the demo."""
    config, begin = "demo:debug" if small else "demo", time.monotonic()
    run("lift_jax", "train", f"--config={config}", f"--workdir={folder}/demo")
    found = json.loads((folder / "demo" / "metrics.json").read_text())
    seconds = time.monotonic() - begin
    return f"{found['test_tte']['overall']:.1f} % overall with TTE, {seconds:.0f} s in all"


def killed(small: bool, folder: Path) -> str:
    """Kills a run in the middle and continues it; returns how many leaves are equal."""
    from lift_jax.runs.weights import export

    epochs = 12 if small else 20
    config = "demo:debug" if small else "demo"
    flags = [f"--config={config}", f"--config.train.epochs={epochs}"]
    flags += ["--config.checkpoint.every_steps=5"]
    run("lift_jax", "train", *flags, f"--workdir={folder}/straight")
    total = (folder / "straight" / "log.jsonl").read_text().count("\n")
    command = [sys.executable, "-m", "lift_jax", "train", *flags, f"--workdir={folder}/killed"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    log = folder / "killed" / "log.jsonl"
    while process.poll() is None:
        if log.exists() and log.read_text().count("\n") > total // 2:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.005)
    if process.wait() != -signal.SIGKILL:
        raise Failed("the run ended before it was killed")
    run("lift_jax", "train", *flags, f"--workdir={folder}/killed")
    found = [export.read_tuned(folder / name) for name in ("straight", "killed")]
    equal = [np.array_equal(leaf, found[1][path]) for path, leaf in found[0].items()]
    if not all(equal) or found[0].keys() != found[1].keys():
        raise Failed(f"{sum(equal)} of {len(equal)} leaves are equal")
    return f"{sum(equal)} of {len(equal)} leaves equal bit for bit, {total} steps"


def prepared(small: bool, folder: Path) -> str:
    """Returns pace and share of waiting of a run from prepared JPEGs of about 80 kB."""
    from lift_jax.benchmarks import data

    (folder / "made").mkdir()
    data.photographs(folder / "made")
    made = sorted((folder / "made").iterdir())
    classes, copies = (4, 12) if small else (CLASSES, COPIES)
    for c in range(classes):
        place = folder / "photos" / f"kind {c}"
        place.mkdir(parents=True)
        for i in range(copies):
            shutil.copy(made[(c + i) % len(made)], place / f"{i}.jpg")
    flags = ["--config=folder:debug"] if small else ["--config=folder"]
    if not small:
        backbone = fullsize.write("b16", "hugging_face", folder / "b16")
        for file in TOKENIZER:  # any that fits the vocabulary will do for random weights
            shutil.copy(ROOT / "lift_jax" / "demo" / "tiny_clip" / file, backbone)
        flags += [f"--config.model.backbone={backbone}", f"--config.train.batch={BATCH}"]
        flags += [f"--config.train.epochs={EPOCHS}", "--config.model.precision=bfloat16"]
    flags += ["--config.data.name=folder", f"--config.data.root={folder}/photos"]
    flags += ["--config.head.init=class_mean", f"--config.data.prepared={folder}/prepared"]
    flags += ["--config.data.test_share=0.02" if not small else "--config.data.test_share=0.2"]
    run("lift_jax", "data", *flags, "--prepare", f"--workdir={folder}/data")
    run("lift_jax", "train", *flags, f"--workdir={folder}/run")
    log = (folder / "run" / "log.jsonl").read_text()
    lines = [json.loads(line) for line in log.splitlines()]
    late = lines[len(lines) // 4 :]  # the first steps also compile
    wait = sum(line["wait"] for line in late) / len(late)
    pace = np.median([line["images_per_second"] for line in late])
    return f"{wait:.1%} of {len(late)} steps waiting, {pace:,.0f} images/s"


PARTS: dict[str, Callable[[bool, Path], str]] = {
    "steps": steps,
    "lean": lean,
    "one device": tests_of_one_device,
    "demo": demo,
    "killed": killed,
    "prepared": prepared,
}


def main(arguments: list[str] | None = None) -> int:
    """Runs the parts and prints the table; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__)
    parser.add_argument("--small", action="store_true", help="small sizes, on any machine")
    parser.add_argument("--only", choices=PARTS, nargs="*", default=list(PARTS))
    flags = parser.parse_args(arguments)
    logging.set_verbosity(logging.ERROR)
    failed = 0
    for name in flags.only:
        begin = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            try:
                found = PARTS[name](flags.small, Path(folder))
            except (Failed, subprocess.TimeoutExpired) as error:
                failed += 1
                found = f"FAILED: {error}"
        print(f"{name:11} {time.monotonic() - begin:5.0f} s  {found}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
