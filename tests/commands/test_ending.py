"""Tests of the ends of commands: mistakes, Ctrl-C, lack of memory, and faults of lift_jax."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.paths import ROOT

from lift_jax.commands.line import ending
from lift_jax.errors import UserError


class Left(Exception):
    """Takes the place of `os._exit`."""


@pytest.fixture
def left(monkeypatch, tmp_path):
    """Returns the list of (status, message) by which `ending.leave` was called."""
    calls = []

    def leave(status, message=""):
        calls.append((status, message))
        raise Left

    monkeypatch.setattr(ending, "leave", leave)
    monkeypatch.setattr(ending, "_interrupted", False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return calls


def end_by(error, left):
    with pytest.raises(Left), ending.errors_as_lines():
        raise error
    return left[-1]


def test_a_fault_is_one_line_that_names_the_file_of_its_trace(left, tmp_path):
    status, message = end_by(KeyError("where\nis it"), left)
    assert status == 70 and message.count("\n") == 1
    assert "fault of lift_jax (KeyError" in message
    (trace,) = (tmp_path / "cache" / "lift_jax" / "faults").iterdir()
    assert message.strip().endswith(str(trace))
    assert "Traceback" in trace.read_text() and "end_by" in trace.read_text()


def test_a_fault_without_a_cache_leaves_its_trace_elsewhere(left, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    status, message = end_by(ValueError("x"), left)
    path = Path(message.split()[-1])
    assert status == 70 and "Traceback" in path.read_text()
    path.unlink()


def test_a_lack_of_memory_says_what_to_do(left):
    class JaxRuntimeError(RuntimeError): ...

    for error, words in (
        (MemoryError("Unable to allocate 8.5 TiB"), "8.5 TiB"),
        (JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"), "The device"),
    ):
        status, message = end_by(error, left)
        assert status == 2 and words in message and "train.accum" in message


def test_ctrl_c_is_130_also_where_a_library_turned_it_into_something_else(left, monkeypatch):
    assert end_by(KeyboardInterrupt(), left)[0] == 130
    monkeypatch.setattr(ending, "_interrupted", True)
    assert end_by(SystemError("import failed"), left)[0] == 130


def test_a_mistake_is_2(left, capsys):
    with pytest.raises(SystemExit) as exit, ending.errors_as_lines():
        raise UserError("x is 3.")
    assert exit.value.code == 2 and capsys.readouterr().err == "error: x is 3.\n"


def test_a_second_ctrl_c_and_one_during_imports_end_at_once(left, monkeypatch, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        ending._interrupt(signal.SIGINT, sys._getframe())
    with pytest.raises(Left):
        ending._interrupt(signal.SIGINT, sys._getframe())
    monkeypatch.setattr(ending, "_interrupted", False)
    (tmp_path / "interrupted_here.py").write_text(
        "import signal, sys\nfrom lift_jax.commands.line import ending\n"
        "ending._interrupt(signal.SIGINT, sys._getframe())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Left):
        import interrupted_here  # type: ignore[import-not-found]  # noqa: F401
    assert [status for status, _ in left] == [130, 130]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_the_interpreters_own_end_is_skipped_after_a_good_command_alone(monkeypatch):
    ended = []
    monkeypatch.setattr(ending.os, "_exit", ended.append)
    for error in (None, SystemExit(3), UserError("x is 3."), None):
        with contextlib.suppress(SystemExit), ending.errors_as_lines():
            if error:
                raise error
        ending.skip_teardown()
    assert ended == [0, 0]
    with open("/dev/full", "w") as full, monkeypatch.context() as patch:
        full.write("not written")
        patch.setattr(sys, "stdout", full)
        ending.skip_teardown()
        assert ended == [0, 0]  # the interpreter reports the error
        with contextlib.suppress(OSError):
            full.close()


def test_the_command_line_uses_it():
    assert ending.errors_as_lines is ending.errors_as_lines


def start(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "lift_jax", *map(str, arguments)], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
    )  # fmt: skip


def test_a_reader_that_leaves_is_no_error():
    with start("settings") as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.wait(60) in (0, ending.BROKEN_PIPE) and not process.stderr.read()


def interrupt(seconds, *arguments):
    """Sends Ctrl-C to a command and its processes after a while; returns status and errors."""
    process = start(*arguments, start_new_session=True)
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


@pytest.mark.parametrize("seconds", [0.4, 1.5])
def test_ctrl_c_ends_a_command(seconds, tmp_path):
    status, errors = interrupt(seconds, "data", "--config=demo:debug", f"--workdir={tmp_path}/d")
    assert status == 130 and errors.strip().splitlines()[-1].startswith("Stopped.")
    assert "Traceback" not in errors
    assert not list(tmp_path.rglob(".*.tmp"))  # the file of a lock may stay; the lock does not


@pytest.mark.slow
def test_ctrl_c_at_random_moments(tmp_path):
    """Status -2 is Ctrl-C during the very last moments, when Python has put its handlers away."""
    rng = random.Random(0)
    for i in range(3):
        workdir = tmp_path / str(i)
        status, errors = interrupt(
            0.3 + 4 * rng.random(), "train", "--config=demo:debug", f"--workdir={workdir}",
            "--config.data.workers=2",
        )  # fmt: skip
        assert status in (130, 75, -2) and "Traceback" not in errors, errors
