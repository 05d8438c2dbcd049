"""One writer a folder: the second is refused at once, and a lock ends with its process."""

import datetime
import errno
import json
import os
import signal
import subprocess
import sys
import time

import filelock
import fsspec
import pytest

from lift_jax.errors import UserError
from lift_jax.storage import lease, lock

HOLD = """
import sys, time
from pathlib import Path
from lift_jax.storage import lock
with lock.one_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(100)
"""


def hold(folder):
    """Starts a process that holds the lock of a folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.slow  # starts a process
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_the_second_process_is_told_of_the_first_until_that_ends(tmp_path, end):
    process = hold(tmp_path)
    try:
        begin = time.monotonic()
        named = f"is being written by process {process.pid} on .* since 20.*Wait until it ends"
        with pytest.raises(UserError, match=named), lock.one_writer(tmp_path):
            pass
        assert time.monotonic() - begin < 2
        with lock.one_writer(tmp_path, "_part"):
            pass
    finally:
        process.send_signal(end)
        process.communicate()
    with lock.one_writer(tmp_path):  # what the dead process has left does not count
        assert json.loads((tmp_path / ".writer.json").read_text())["process"] == os.getpid()


def test_functions_of_one_process_share_it(tmp_path):
    with lock.one_writer(tmp_path), lock.one_writer(tmp_path / ".." / tmp_path.name):
        other = filelock.FileLock(tmp_path / ".writer.lock")
        with pytest.raises(filelock.Timeout):
            other.acquire(timeout=0)
    assert not list(tmp_path.iterdir())
    other.acquire(timeout=0)
    other.release()


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch, capsys):
    def refuse(*_, **__):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with lock.one_writer(tmp_path):
        pass
    assert "lies on a file system without locks" in capsys.readouterr().err


# -- addresses


@pytest.fixture
def memory():
    fs = fsspec.filesystem("memory")
    yield fs
    fs.rm("/mine", recursive=True)


def claim(fs, **changes):
    """Lays a claim of another process."""
    holder = {"host": "tpu-7", "process": 1234, "since": "2026-01-01", "machine": "another"}
    fs.makedirs(f"/mine/{lease.CLAIMS}", exist_ok=True)
    fs.pipe_file(f"/mine/{lease.CLAIMS}/a.json", json.dumps(holder | changes).encode())


def one_writer(fs):
    return lease.one_writer(fs, "/mine", "memory://mine")


def claims(fs):
    return fs.ls(f"/mine/{lease.CLAIMS}", detail=False)


def test_a_claim_at_an_address_keeps_others_out(memory):
    with one_writer(memory) as may_write:
        assert may_write()
        with pytest.raises(UserError, match=f"process {os.getpid()} on .*try again in 5 minutes"):
            with one_writer(memory):
                pass
        assert len(claims(memory)) == 1
    assert not claims(memory)
    claim(memory)
    with pytest.raises(UserError, match="process 1234 on tpu-7 since 2026-01-01"):
        with one_writer(memory):
            pass


@pytest.mark.parametrize("content", [b"", b"{", b"[5]", b"5", b'{"host": "tpu-7"}'])
def test_a_claim_that_does_not_say_whose_it_is_keeps_others_out(memory, content):
    claim(memory)
    memory.pipe_file(f"/mine/{lease.CLAIMS}/a.json", content)
    with pytest.raises(UserError, match="memory://mine is being written by another process"):
        with one_writer(memory):
            pass
    assert len(claims(memory)) == 1  # its own is gone


def test_a_claim_that_is_not_renewed_ends(memory, monkeypatch):
    """Its age is a difference of the store's own times, whatever the clocks of the machines say."""
    claim(memory)
    modified = type(memory).modified
    for seconds, free in ((lease.STALE - 10, False), (lease.STALE + 10, True)):
        past = datetime.timedelta(seconds=seconds)

        def aged(self, path, past=past):
            return modified(self, path) - (past if path.endswith("/a.json") else past * 0)

        monkeypatch.setattr(type(memory), "modified", aged)
        if free:
            with one_writer(memory):
                assert len(claims(memory)) == 1
        else:
            with pytest.raises(UserError, match="is being written"), one_writer(memory):
                pass


def test_a_claim_of_a_process_that_is_gone_from_this_machine_ends_at_once(memory):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    claim(memory, process=gone.pid, machine=lease._machine())
    with one_writer(memory):
        pass
    claim(memory, process=os.getpid(), machine=lease._machine())
    with pytest.raises(UserError, match="is being written"), one_writer(memory):
        pass


def test_a_claim_is_renewed_and_its_loss_is_seen(memory, monkeypatch):
    monkeypatch.setattr(lease, "RENEW", 0.01)
    with one_writer(memory) as may_write:
        [own] = claims(memory)
        first = memory.modified(own)
        wait_until(lambda: memory.modified(own) > first)
        memory.rm_file(own)  # as another process does that takes it for stale
        wait_until(lambda: not may_write())


def wait_until(true):
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)
