"""Tests of several processes as one program: real ones here, and settings of launchers."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from PIL import Image
from support.runs import saved_leaves, train_and_test

from configs import folder
from lift_jax.errors import UserError
from lift_jax.parallel import meeting, signals
from lift_jax.parallel.processes import start
from lift_jax.runs import log
from lift_jax.runs.finished_run import RESULTS
from lift_jax.runs.kept import features, predictions
from lift_jax.runs.kept.result_files import METRICS

pytestmark = pytest.mark.slow  # whole runs, or many compilations

CHANGES = {"train.epochs": 3, "train.batch": 16}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_processes(workdir, count, devices, *arguments, each=((), ()), before=""):
    """Starts the command `count` times, after the Python code `before`; returns the processes."""
    port = free_port()
    xla = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"XLA_FLAGS": xla, "JAX_PLATFORMS": "cpu"}  # the last count holds
    command = [
        sys.executable, "-c",
        f"from lift_jax import main; from lift_jax.parallel import mesh\n{before}\nmain.main()",
        "--config=configs/folder.py:debug",
        *(f"--config.{key}={value}" for key, value in CHANGES.items()),
        f"--workdir={workdir}", f"--coordinator=127.0.0.1:{port}", f"--process_count={count}",
        *arguments,
    ]  # fmt: skip
    return [
        subprocess.Popen(
            [*command, *each[i], f"--process_id={i}"], env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for i in range(count)
    ]  # fmt: skip


def test_two_processes_are_one_program(tmp_path):
    """2 processes of 4 devices give the losses (1e-5) and metrics of 1 process of 8."""
    processes = start_processes(tmp_path / "two", 2, 4)
    config = folder.get_config("debug")
    config.update_from_flattened_dict(CHANGES)
    assert jax.device_count() == 8
    alone = train_and_test(config, tmp_path / "one")
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert "2 processes with 8 devices: 0 on" in said[0]
    assert "Accuracy" in said[0] and "Accuracy" not in said[1]  # the first alone speaks

    losses = [
        [step.loss for step in log.read_log(tmp_path / run / log.LOG)] for run in ("one", "two")
    ]
    assert len(losses[0]) == 3 * 4 == len(losses[1])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    together = json.loads((tmp_path / "two" / METRICS).read_text())
    for row in RESULTS:
        assert together[row] == alone[row], row
    kept, own = (predictions.read(tmp_path / run) for run in ("two", "one"))
    assert np.array_equal(kept.rows, own.rows) and np.array_equal(kept.labels, own.labels)
    assert kept.answers.keys() == own.answers.keys()
    for row, answers in kept.answers.items():
        np.testing.assert_array_equal(answers.classes[:, 0], own.answers[row].classes[:, 0])
        np.testing.assert_allclose(
            answers.probabilities, own.answers[row].probabilities, rtol=1e-3, atol=1e-6
        )
    one, two = (features.read(tmp_path / run) for run in ("one", "two"))
    assert two.names == one.names
    for part in ("rows", "labels", "test_rows", "test_labels"):
        assert np.array_equal(getattr(two, part), getattr(one, part)), part
    for part in ("before", "after", "test_before", "test_after"):
        found, expected = (getattr(each, part).astype(np.float32) for each in (two, one))
        assert np.abs(found - expected).max() < 2e-3, part  # float16, of values up to 1


def test_a_signal_to_one_stops_both_and_one_process_goes_on(tmp_path):
    """One process of 8 devices ends a run that two processes of 4 began as if it were its own.

    The head is cut over all devices of both processes, and gathered for the checkpoint.
    """
    longer = {**CHANGES, "train.epochs": 10, "checkpoint.every_steps": 1000}
    flags = [f"--config.{key}={value}" for key, value in longer.items()]
    cut = "--config.mesh.strategy=fsdp", "--config.mesh.model=8"
    processes = start_processes(
        tmp_path / "both", 2, 4, *flags, *cut, before="mesh.LARGE_HEAD = 1"
    )  # fmt: skip
    path = tmp_path / "both" / log.LOG
    while not (path.exists() and path.read_text().count("\n") >= 2):
        assert all(process.poll() is None for process in processes), processes[0].communicate()
        time.sleep(0.01)
    processes[1].send_signal(signal.SIGTERM)
    said = [process.communicate(timeout=100)[0] for process in processes]
    assert [process.returncode for process in processes] == [signals.STOPPED] * 2, said
    done = len(log.read_log(path))
    assert f"Stopped after step {done} of 40" in said[0] and 2 <= done < 40

    config = folder.get_config("debug")
    config.update_from_flattened_dict(longer)
    found, alone = (train_and_test(config, tmp_path / run) for run in ("both", "one"))
    losses = [
        [step.loss for step in log.read_log(tmp_path / run / log.LOG)] for run in ("both", "one")
    ]
    assert len(losses[0]) == 40
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert all(found[row] == alone[row] for row in RESULTS)


KILL_AT_STEP_8 = """
import os, signal
from lift_jax.training import monitor
add = monitor.Monitor.add
def add_or_die(self, step, loss):
    if step == 8:
        os.kill(os.getpid(), signal.SIGKILL)
    add(self, step, loss)
monitor.Monitor.add = add_or_die
"""


def test_sampling_in_two_processes_is_that_of_one_also_after_a_kill(tmp_path):
    """Two processes draw as one does. Killed within an epoch, they go on to the same bytes."""
    sampled = {
        **CHANGES, "train.sampling": "balanced", "train.epochs": 4, "checkpoint.every_steps": 3
    }  # fmt: skip
    flags = [f"--config.{key}={value}" for key, value in sampled.items()]

    def run(name, before=""):
        processes = start_processes(tmp_path / name, 2, 4, *flags, before=before)
        said = [process.communicate(timeout=300)[0] for process in processes]
        return said[0], [process.returncode for process in processes]

    def losses(name):
        return [step.loss for step in log.read_log(tmp_path / name / log.LOG)]

    said, ended = run("two")
    assert ended == [0, 0], said
    said, ended = run("killed", KILL_AT_STEP_8)
    assert ended == [-signal.SIGKILL] * 2, said
    assert len(losses("killed")) < 16
    said, ended = run("killed")
    assert ended == [0, 0] and "Continuing" in said, said
    config = folder.get_config("debug")
    config.update_from_flattened_dict(sampled)
    alone = train_and_test(config, tmp_path / "one")
    config.train.sampling = "natural"
    train_and_test(config, tmp_path / "natural")

    assert len(losses("one")) == 16
    assert losses("two") == pytest.approx(losses("one"), rel=1e-5)
    assert losses("two") != pytest.approx(losses("natural"), rel=1e-2)  # so sampling shows at all
    assert losses("killed") == losses("two")
    leaves, expected = (saved_leaves(tmp_path / name) for name in ("killed", "two"))
    assert leaves.keys() == expected.keys()
    assert all(leaves[path].tobytes() == expected[path].tobytes() for path in leaves)
    for name in ("two", "killed"):
        found = json.loads((tmp_path / name / METRICS).read_text())
        assert all(found[row] == alone[row] for row in RESULTS), name


def test_one_that_dies_ends_the_other_by_its_name(tmp_path):
    processes = start_processes(tmp_path, 2, 2, "--config.train.epochs=500")
    path = tmp_path / log.LOG
    while not (path.exists() and path.read_text().count("\n") >= 2):
        assert all(process.poll() is None for process in processes), processes[0].communicate()
        time.sleep(0.01)
    processes[1].kill()
    begin = time.monotonic()
    said = processes[0].communicate(timeout=60)[0]
    assert time.monotonic() - begin < 30
    assert processes[0].returncode == 1
    assert f"Process 1 (on {socket.gethostname()}) died" in said
    processes[1].communicate()


def test_one_that_fails_ends_the_other_with_its_error(tmp_path):
    """Both end with the error of process 1, whose list alone has a mistake."""
    names = [tmp_path / f"names_{i}.txt" for i in range(2)]
    for i in range(2):
        Image.new("RGB", (40, 50), (90 * i, 0, 0)).save(tmp_path / f"{i}.png")
    names[0].write_text("cat\ndog\n")
    names[1].write_text("cat\n")
    (tmp_path / "list.txt").write_text("0.png 0\n1.png 1\n" * 9)
    flags = ["--config.data.name=list", f"--config.data.root={tmp_path}",
             "--config.data.train_list=list.txt", "--config.data.test_list=list.txt"]  # fmt: skip
    processes = start_processes(tmp_path / "W", 2, 2, *flags, each=[
        [f"--config.data.class_names={path}"] for path in names
    ])  # fmt: skip
    said = [process.communicate(timeout=200)[0] for process in processes]
    assert [process.returncode for process in processes] == [1, 2], said
    assert "error:" in said[1] and "Process 1 (on" in said[0]
    own = next(line for line in said[1].splitlines() if line.startswith("error:"))
    assert own.removeprefix("error: ")[:60] in said[0]


def test_a_failure_of_process_0_is_told_before_its_coordinator_ends(tmp_path):
    processes = start_processes(tmp_path / "W", 2, 2, "--config.data.name=folder", each=[
        [f"--config.data.root={root}"] for root in (tmp_path / "nowhere", small_folder(tmp_path))
    ])  # fmt: skip
    said = [process.communicate(timeout=100)[0] for process in processes]
    assert [process.returncode for process in processes] == [2, 1], said
    assert "nowhere" in errors(said[0])[0] and "Process 0 (on" in errors(said[1])[0]


def small_folder(parent, classes=("cat", "dog")):
    """Makes a data set of 12 images of each class; returns its folder."""
    for name in classes:
        for i in range(12):
            path = parent / "-".join(classes) / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40 + i, 50), (9 * i, 0, 200)).save(path)
    return parent / "-".join(classes)


def errors(said):
    """Returns the lines of errors in what a process said."""
    return [line for line in said.splitlines() if line.startswith("error:")]


@pytest.mark.parametrize(("each", "key", "values"), [
    (([], ["--config.train.lr=0.5"]), "train.lr", ("0.02 on process 0", "0.5 on process 1")),
    (("cat-dog", "cat-fox"), "the class names", ("cat, dog on process 0", "cat, fox on process 1")),
])  # fmt: skip
def test_processes_that_differ_do_not_train(tmp_path, each, key, values):
    if isinstance(each[0], str):
        roots = [small_folder(tmp_path, name.split("-")) for name in each]
        each = [["--config.data.name=folder", f"--config.data.root={root}"] for root in roots]
    processes = start_processes(tmp_path / "W", 2, 2, each=each)
    said = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [2, 2], said
    (line,) = errors(said[0])
    assert errors(said[1]) == [line]
    assert f"The processes differ in {key}: " in line
    assert all(f"{value} (on {socket.gethostname()})" in line for value in values)
    assert not list((tmp_path / "W").glob("*"))


@pytest.fixture
def started(monkeypatch):
    """Returns the arguments of jax.distributed.initialize; neither it nor the meeting is run."""
    calls = []
    monkeypatch.setattr(meeting, "meet", lambda *arguments: None)
    monkeypatch.setattr(jax.distributed, "initialize", lambda **arguments: calls.append(arguments))
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "JAX_COORDINATOR")):
            monkeypatch.delenv(name)
    return calls


def set_environment(monkeypatch, **variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_a_single_process_needs_nothing(started, monkeypatch):
    start()
    set_environment(monkeypatch, SLURM_PROCID="0", SLURM_STEP_NUM_TASKS="1")
    start()
    assert started == []


def test_flags(started):
    start("10.0.0.1:1234", 1, 3)
    (call,) = started
    assert call["coordinator_address"] == "10.0.0.1:1234"
    assert (call["process_id"], call["num_processes"]) == (1, 3)
    assert call["cluster_detection_method"] == "deactivate"
    assert call["heartbeat_timeout_seconds"] <= 100  # the others of a dead process end soon
    assert call["initialization_timeout"] == meeting.SECONDS


SRUN = {
    "SLURM_STEP_NODELIST": "n[01-02]", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "2",
    "SLURM_PROCID": "1", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "77",
}  # fmt: skip


def test_srun(started, monkeypatch):
    set_environment(monkeypatch, **SRUN)
    start()
    assert (started[0]["process_id"], started[0]["num_processes"]) == (1, 2)
    assert started[0]["coordinator_address"] is None  # JAX reads the list of nodes
    assert "local_device_ids" not in started[0]
    assert started[0]["initialization_timeout"] == 300
    # one process for the four GPUs of a node takes all; one for each takes what JAX gives it
    set_environment(monkeypatch, SLURM_GPUS_ON_NODE="4")
    start()
    assert started[1]["local_device_ids"] == [0, 1, 2, 3]
    set_environment(monkeypatch, SLURM_STEP_NUM_TASKS="8")
    start()
    assert "local_device_ids" not in started[2] and started[2]["num_processes"] == 8


def test_mpirun(started, monkeypatch):
    set_environment(monkeypatch, OMPI_COMM_WORLD_RANK="1", OMPI_COMM_WORLD_SIZE="2")
    with pytest.raises(UserError, match="missing: --coordinator"):  # version 5 tells no address
        start()
    start("10.0.0.1:1234")
    assert (started[0]["process_id"], started[0]["num_processes"]) == (1, 2)
    set_environment(monkeypatch, OMPI_MCA_orte_hnp_uri="1531576320.0;tcp://10.96.0.1:34911")
    start()
    assert started[1]["coordinator_address"] is None


@pytest.mark.parametrize(("arguments", "words"), [
    (("10.0.0.1:1234",), "missing: --process_id=I, --process_count=N"),
    (("", 0, 2), "missing: --coordinator=HOST:PORT"),
    (("10.0.0.1:1234", 2, 2), "--process_id is 2; .* from 0 to 1"),
    (("10.0.0.1", 0, 2), "'10.0.0.1'; expected HOST:PORT"),
    ((":1234", 0, 2), "':1234'; expected HOST:PORT"),
    (("h:0", 0, 2), "'h:0'; expected HOST:PORT, with a port from 1 to 65535"),
    (("h:65536", 1, 2), "expected HOST:PORT, with a port from 1 to 65535"),
    (("h:²", 1, 2), "expected HOST:PORT"),
])  # fmt: skip
def test_wrong_flags(started, arguments, words):
    with pytest.raises(UserError, match=words):
        start(*arguments)
    assert started == []


def test_others_that_cannot_be_reached(started, monkeypatch):
    def fail(**arguments):
        raise RuntimeError("DEADLINE_EXCEEDED")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    with pytest.raises(UserError, match="coordinator h:1, process 0 of 2.*DEADLINE"):
        start("h:1", 0, 2)
