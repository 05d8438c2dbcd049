"""Tests of what a run survives: requests to stop, damaged checkpoints, a full disk."""

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console
from support.runs import train_and_test

from configs import folder as folder_config
from lift_jax.errors import UserError
from lift_jax.parallel import signals
from lift_jax.runs import finished_run, log, results
from lift_jax.runs.kept import result_files
from lift_jax.training import checkpoint, optimizer, state

pytestmark = pytest.mark.slow  # whole runs, or many compilations

LONG = ["--config.train.epochs=20", "--config.checkpoint.every_steps=1000"]


def start(workdir, *arguments):
    xla = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=1"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": xla}  # the last count holds
    command = [sys.executable, "-m", "lift_jax.main", "--config=configs/folder.py:debug",
               f"--workdir={workdir}", *arguments]  # fmt: skip
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip


def wait_for_steps(workdir, steps, process):
    deadline = time.monotonic() + 200
    path = workdir / log.LOG
    while not (path.exists() and path.read_text().count("\n") >= steps):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def losses(workdir):
    return [step.loss for step in log.read_log(workdir / log.LOG)]


def test_stopped_by_a_signal_it_saves_and_continues(tmp_path):
    done = 0
    for number in (signal.SIGTERM, signal.SIGINT):
        process = start(tmp_path / "W", *LONG)
        wait_for_steps(tmp_path / "W", done + 2, process)
        process.send_signal(number)
        out, err = process.communicate(timeout=100)
        assert process.returncode == signals.STOPPED == 75, err
        assert "Stopped after step" in out and "Traceback" not in err
        done = len(losses(tmp_path / "W"))
        assert f"after step {done} of 40" in out
    process = start(tmp_path / "W", *LONG)
    straight = start(tmp_path / "V", *LONG)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0 and "Continuing" in out, err
    straight.communicate(timeout=200)
    assert len(losses(tmp_path / "W")) == 40
    assert losses(tmp_path / "W") == losses(tmp_path / "V")
    found, wanted = (json.loads((tmp_path / w / result_files.METRICS).read_text()) for w in "WV")
    assert all(found[row] == wanted[row] for row in finished_run.RESULTS)


def test_the_second_interrupt_stops_at_once(capfd):
    before = signal.getsignal(signal.SIGINT)
    with signals.StopRequest() as watch:
        assert not watch.asked(1)
        signal.raise_signal(signal.SIGINT)
        assert watch.asked(2)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    assert "then saving" in capfd.readouterr().err


# -- when to save


def test_cadence_in_steps():
    cadence = checkpoint.Cadence(3, 0.0, start=4)
    assert [step for step in range(5, 16) if cadence.due(step)] == [6, 9, 12, 15]


def test_cadence_in_minutes():
    """A step takes 20 s, so about 3 of them a minute; the first, which compiles, does not count."""
    now = [0.0]
    cadence = checkpoint.Cadence(1000, 1.0, start=0, clock=lambda: now[0])
    due = []
    for step in range(1, 31):
        now[0] += 300 if step == 1 else 20
        due += [step] if cadence.due(step) else []
    first = 2 + checkpoint.PACE_STEPS + 3
    assert due == list(range(first, 31, 3))


def test_the_best_by_validation_is_kept_tested_and_exported(tmp_path):
    config = folder_config.get_config("debug")
    options = {"train.epochs": 4, "train.lr": 0.3, "data.val_share": 0.3, "checkpoint.best": True,
               "checkpoint.keep": 1, "checkpoint.every_steps": 1000}  # fmt: skip
    config.update_from_flattened_dict(options)
    scores = {2: 30.0, 4: 70.0, 6: 70.0, 8: 50.0}  # made up, by step at an epoch's end

    def validator(config, setup, console):
        assert len(setup.data.val) > 0
        return lambda state: scores[int(state.step)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "validator", validator)
        found = train_and_test(config, tmp_path)
    assert found["steps"] == 6  # the later of two that are equally good
    kept = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
    assert kept == [6, 8] and checkpoint.best_first(tmp_path) == [6, 8]
    assert train_and_test(config, tmp_path) == found  # finished
    config.checkpoint.best = False
    assert train_and_test(config, tmp_path, "evaluate")["steps"] == 8


def test_there_is_no_best_of_what_was_not_validated(tmp_path):
    config = folder_config.get_config("debug")
    config.data.val_share = 0.3
    train_and_test(config, tmp_path)
    config.checkpoint.best = True
    with pytest.raises(UserError, match="has been validated: the run was trained without"):
        train_and_test(config, tmp_path, "evaluate")


def test_the_best_needs_a_validation_split(tmp_path):
    config = folder_config.get_config("debug")
    config.checkpoint.best = True
    with pytest.raises(UserError, match="checkpoint.best needs a validation split"):
        train_and_test(config, tmp_path)


# -- checkpoints


def made_state(step):
    rng = np.random.default_rng(step)
    leaf = {"visual/a": rng.normal(size=(64, 3)).astype("f4"), "head/b": np.full(5, step, "f4")}
    tuned = {path: jnp.asarray(array) for path, array in leaf.items()}
    made = state.create_state(tuned, optimizer.sgd(lambda step: 0.1, 0.9, 0.0))
    return state.State(jnp.int32(step), made.tuned, made.opt)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Makes checkpoints of steps 1, 2 and 3."""
    workdir = tmp_path_factory.mktemp("saved")
    with checkpoint.open_manager(workdir, 3) as manager:
        for step in (1, 2, 3):
            checkpoint.save(manager, made_state(step), {"seed": 7})
        checkpoint.wait(manager)
    return workdir


def restored(workdir):
    console = Console(record=True, width=300)
    with checkpoint.open_manager(workdir, 3) as manager:
        assert checkpoint.read_about(manager) == {"seed": 7}
        state = checkpoint.restore(manager, made_state(0), console)
        return state, " ".join(console.export_text().split())  # however its lines are broken


def assert_equal(found, step):
    wanted = made_state(step)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert np.array_equal(a, b)


@pytest.fixture
def collected():
    """Collects the failed tasks of orbax, so that their warnings belong to this test."""
    yield
    gc.collect()


def damage(path, how):
    content = path.read_bytes()
    if how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "flip":
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :])
    else:
        path.unlink()


def files_of(workdir):
    return sorted(p.relative_to(workdir) for p in workdir.rglob("3/**/*") if p.is_file())


def test_it_is_what_was_saved(saved, tmp_path):
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    found, said = restored(tmp_path)
    assert_equal(found, 3)
    assert said == ""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("collected")
@pytest.mark.parametrize("how", ["cut", "flip", "remove"])
def test_no_damage_goes_unseen(saved, tmp_path, how):
    """Whichever file is damaged, the state is right, or a warning names the one before."""
    files = files_of(saved)
    assert len(files) > 4
    fallen_back = 0
    for number, file in enumerate(files):
        workdir = tmp_path / str(number)
        shutil.copytree(saved, workdir)
        damage(workdir / file, how)
        found, said = restored(workdir)
        assert_equal(found, 2 if said else 3)
        if said:
            fallen_back += 1
            assert "checkpoint of step 3 is damaged" in said and "continues from step 2" in said
            assert (workdir / "damaged_checkpoint_3").is_dir()
            with checkpoint.open_manager(workdir, 3) as manager:  # the place of step 3 is free
                checkpoint.save(manager, made_state(3), {"seed": 7})
                checkpoint.wait(manager)
            assert_equal(restored(workdir)[0], 3)
    assert fallen_back >= 2


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("collected")
def test_all_damaged(saved, tmp_path):
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    for file in tmp_path.rglob("about/metadata"):
        damage(file, "cut")
    with pytest.raises(UserError, match=r"No checkpoint .*\n.*checkpoints/3: .*\n.*checkpoints/2"):
        restored(tmp_path)


def test_a_full_disk_leaves_the_checkpoints_intact(tmp_path):
    """The system refuses to make a file larger than a few kB, as it would on a full disk."""

    code = f"""
import resource, sys; sys.path[:0] = ["tests", "tests/runs"]
from pathlib import Path; from test_survival import made_state
from lift_jax.training import checkpoint
step = int(sys.argv[1])
if step == 2: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # Python ignores the signal
with checkpoint.open_manager(Path({str(tmp_path)!r}), 3) as manager:
    try:
        checkpoint.save(manager, made_state(step), {{"x": "y" * 9999 * (step - 1)}})
        checkpoint.wait(manager)
    except Exception as e: print(type(e).__name__, e)
"""
    for step in ("1", "2"):
        command = [sys.executable, "-c", code, step]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
        assert ("DiskError Cannot save a checkpoint" in done.stdout) == (step == "2"), done
    with checkpoint.open_manager(tmp_path, 3) as manager:
        found = checkpoint.restore(manager, made_state(0), Console())
    assert_equal(found, 1)
