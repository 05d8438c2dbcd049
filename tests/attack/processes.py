"""Attacks with two processes: two writers of one run folder, and processes that differ."""

import socket
import time
from pathlib import Path

from tests.attack.commands import command, commands, finish
from tests.attack.engine import Fault, Kind


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
    with socket.socket() as probe:
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
    "writers": Kind(lambda rng: 5 * rng.random(), attempt_writers, limit=150),
    "processes": Kind(lambda rng: rng.choice(DIFFERENT), attempt_processes, limit=150),
}
