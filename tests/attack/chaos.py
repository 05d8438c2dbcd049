"""Runs that are killed, starved and damaged at random moments, and must end as if undisturbed.

A run of the demo at debug size is hit by one of FAULTS, then continued, now and then on other
devices. Its tuned weights must equal those of a run that was left alone on the devices on which it
began: bit for bit if it ended on them, else to 1e-5 of a leaf's largest weight.
The suite runs each fault once (test_chaos.py).
"""

import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np

from lift_jax.parallel.signals import STOPPED
from lift_jax.runs import log
from lift_jax.runs.weights import export
from tests.attack.engine import Fault, Kind
from tests.support.paths import ROOT

STEPS = 24
FLAGS = [
    "--config=configs/demo.py:debug", "--config.train.epochs=12",
    "--config.checkpoint.every_steps=3",
]  # fmt: skip
FAULTS = ("kill", "term", "one_of_two", "full_disk", "torn_file")
LAYOUTS = {"1 device": (1, 1), "2 devices": (1, 2), "8 devices": (1, 8), "2 processes": (2, 2)}
SAID = 400  # last characters of a command's output in a message, which `engine` cuts after 500
SECONDS = 300  # after which a process that has not ended counts as hanging


def start(workdir: Path, processes: int = 1, devices: int = 1, limit: int = 0):
    """Starts the command in each process; `limit` is the largest size of a file in bytes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    several = [f"--coordinator=127.0.0.1:{port}", f"--process_count={processes}"]
    xla = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": xla}
    command = [sys.executable, "-m", "lift_jax.main", *FLAGS, f"--workdir={workdir}"]
    return [
        subprocess.Popen(
            [*command, *(several if processes > 1 else []), f"--process_id={i}"][
                : None if processes > 1 else -1
            ],
            cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            preexec_fn=(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
            if limit
            else None,
        )
        for i in range(processes)
    ]  # fmt: skip


def finish(processes) -> tuple[list[int], str]:
    """Waits until the processes end. Raises Fault if one hangs."""
    said = []
    for process in processes:
        try:
            said.append(process.communicate(timeout=SECONDS)[0])
        except subprocess.TimeoutExpired:
            for other in processes:
                other.kill()
            raise Fault(f"still there after {SECONDS} s") from None
    return [process.returncode for process in processes], "\n".join(said)


def wait_for(workdir: Path, steps: int, processes) -> None:
    """Returns once so many steps are logged, or a process has ended."""
    path, begin = workdir / log.LOG, time.monotonic()
    while all(process.poll() is None for process in processes):
        if path.exists() and path.read_text(errors="replace").count("\n") >= steps:
            return
        if time.monotonic() - begin > SECONDS:
            raise Fault(f"step {steps} is not reached after {SECONDS} s")
        time.sleep(0.002)


@contextmanager
def small_disk(workdir: Path):
    """A file system of 200 kB at the folder where that is allowed; yields a function that makes
    it larger, or None."""
    workdir.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(workdir)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        yield None
        return

    def enlarge() -> None:
        subprocess.run(["mount", "-o", "remount,size=64m", str(workdir)], check=True)

    try:
        yield enlarge
    finally:
        subprocess.run(["umount", str(workdir)], check=True)


def tear(workdir: Path, rng: random.Random) -> str:
    """Cuts or empties a random file of the newest of two checkpoints."""
    steps = sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())
    if len(steps) < 2:
        return "too early to tear"
    files = [p for p in (workdir / f"checkpoints/{steps[-1]}").rglob("*") if p.is_file()]
    path = rng.choice(sorted(p for p in files if p.stat().st_size))
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])
    return f"tore {path.relative_to(workdir)}"


def begins_on(fault: str) -> str:
    """Returns the layout on which a run begins."""
    return "2 processes" if fault == "one_of_two" else "1 device"


def one_run(fault: str, workdir: Path, rng: random.Random) -> tuple[str, str]:
    """Hits a run and continues it to its end; returns what was done, and on what it ended."""
    first = begins_on(fault)
    last = rng.choice([first, first, *LAYOUTS])
    moment = rng.randrange(1, STEPS)
    if fault == "full_disk":
        with small_disk(workdir) as enlarge:
            codes, said = finish(start(workdir, limit=0 if enlarge else 6000))
            if codes != [2] or "error: Cannot" not in said:
                raise Fault(f"full disk: exit {codes}, it said {said[-SAID:]}")
            if enlarge:
                enlarge()
            done = end(workdir, last)
            kept = workdir.with_name(f"{workdir.name}_kept")
            shutil.copytree(workdir, kept)
        shutil.rmtree(workdir)
        kept.rename(workdir)
        return f"the {'file system' if enlarge else 'largest file'} was full; {done}", last
    processes = start(workdir, *LAYOUTS[first])
    wait_for(workdir, moment, processes)
    time.sleep(rng.random() * 0.1)
    what = f"after step {moment}"
    if fault == "one_of_two":
        victim = rng.randrange(2)
        processes[victim].kill()
        begin = time.monotonic()
        codes, said = finish(processes)
        if codes[1 - victim] == 0 and codes[victim] != 0:
            raise Fault(f"process {1 - victim} finished alone: {said[-SAID:]}")
        what += f" process {victim}, the other ended after {time.monotonic() - begin:.1f} s"
    else:
        processes[0].send_signal(signal.SIGTERM if fault == "term" else signal.SIGKILL)
        codes, said = finish(processes)
        if fault == "term" and codes[0] not in (STOPPED, 0, -signal.SIGTERM):
            raise Fault(f"SIGTERM: exit {codes}, it said {said[-SAID:]}")
    if fault == "torn_file":
        what += f", {tear(workdir, rng)}"
    return f"{what}; {end(workdir, last)}", last


def end(workdir: Path, layout: str) -> str:
    codes, said = finish(start(workdir, *LAYOUTS[layout]))
    if any(codes):
        raise Fault(f"continued on {layout}: exit {codes}, it said {said[-SAID:]}")
    words = ("damaged", "Continuing", "finished")
    return ", ".join(word for word in words if word in said) or "begun anew"


def compare(workdir: Path, expected: dict[str, np.ndarray], exact: bool) -> float:
    """Returns the largest difference of a tuned leaf, as a share of its largest weight."""
    found = export.read_tuned(workdir)
    if found.keys() != expected.keys():
        raise Fault("other leaves")
    worst = 0.0
    for path, leaf in expected.items():
        scale = max(float(np.abs(leaf).max()), 1e-30)
        worst = max(worst, float(np.abs(found[path] - leaf).max()) / scale)
    if worst > (0.0 if exact else 1e-5):
        raise Fault(f"a leaf differs by {worst:.1e}")
    return worst


def straight(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """Returns the tuned leaves of undisturbed runs, by layout."""
    found = {}
    for layout in sorted({begins_on(fault) for fault in FAULTS}):
        end(folder / layout, layout)
        found[layout] = export.read_tuned(folder / layout)
    return found


@cache
def undisturbed() -> dict[str, dict[str, np.ndarray]]:
    """Returns `straight` of a folder of its own."""
    return straight(Path(tempfile.mkdtemp()))


def attempt(case: tuple[str, int], folder: Path) -> None:
    """A run that is hit by a fault ends with the weights of an undisturbed one."""
    fault, seed = case
    _, last = one_run(fault, folder / "W", random.Random(seed))
    first = begins_on(fault)
    compare(folder / "W", undisturbed()[first], exact=last == first)


KINDS = {
    "chaos": Kind(
        lambda rng: (rng.choice(FAULTS), rng.randrange(10**6)), attempt, share=3, limit=600
    )
}
