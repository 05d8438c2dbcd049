"""Errors of the disk as lines, files that are complete or absent, and places that are checked."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support.full_disk import full_disk

from lift_jax.errors import DiskError, UserError
from lift_jax.storage import atomic, cache, disk, lock, temporary
from lift_jax.storage.formats import csv_files

KINDS = (
    "ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EIO", "ENOENT", "ENOTDIR", "EISDIR", "ESTALE",
    "ENAMETOOLONG",
)  # fmt: skip
WRITERS = {
    "json": lambda path: atomic.write_json(path, {"new": np.ones(3)}),
    "csv": lambda path: csv_files.write_csv(path, ["new"], [[1]]),
    "bytes": lambda path: atomic.write_bytes(path, b"new"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_error_is_a_line_that_says_what_to_do(kind, tmp_path):
    file, code = tmp_path / "a.json", getattr(errno, kind)
    atomic.write_json(file, "old")
    with pytest.raises(DiskError) as caught, full_disk(tmp_path, 1, code):
        atomic.write_json(file, "new")
    text = str(caught.value)
    assert str(file) in text and os.strerror(code) in text and disk.REMEDIES[code] in text
    assert "\n" not in text and file.read_text() == '"old"\n'
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("name", ["json", "csv", "bytes"])
def test_a_file_is_the_old_one_until_its_last_write(name, tmp_path):
    file, failed = tmp_path / "file", 0
    file.write_bytes(b"old")
    while True:
        with full_disk(tmp_path, failed) as writes:
            try:
                WRITERS[name](file)
                break
            except DiskError:
                assert len(writes) > failed
        assert file.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]
        failed += 1
    assert failed >= 4 and b"old" not in file.read_bytes()


def test_a_limit_on_the_size_of_files(tmp_path):
    code = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
from lift_jax.storage import atomic
atomic.write_bytes(sys.argv[1], bytes(9999))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a")], capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    assert (
        f"DiskError: Cannot write {tmp_path / 'a'}: File too large. Lift the limit" in done.stderr
    )
    assert not os.listdir(tmp_path)


def test_errors_that_are_not_of_the_disk_pass():
    for error in (ConnectionResetError(errno.ECONNRESET, "x"), TimeoutError(), OSError("x")):
        with pytest.raises(type(error)), disk.disk_errors("place"):
            raise error


def test_a_folder_that_vanishes_meanwhile(tmp_path):
    (tmp_path / "w").mkdir()
    with (
        pytest.raises(DiskError, match="w/a: No such file.*Put the folder back"),
        atomic.open_replacement(tmp_path / "w" / "a") as file,
    ):
        file.write("x")
        [temporary] = (tmp_path / "w").iterdir()
        temporary.unlink()
        (tmp_path / "w").rmdir()


def test_places_are_checked_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    made = disk.make_place(tmp_path / "new" / "a.csv", "--to")
    assert made.parent.is_dir() and not list(made.parent.iterdir())
    with pytest.raises(UserError, match=r"new \(--to\) is a folder. Give the name of a file"):
        disk.make_place(tmp_path / "new", "--to")
    with pytest.raises(UserError, match=r"file/x \(--to\): Not a directory"):
        disk.make_place(tmp_path / "file" / "x" / "a.csv", "--to")
    os.mkfifo(tmp_path / "fifo")
    for special in (tmp_path / "fifo", Path("/dev/null")):  # nothing may take their place
        with pytest.raises(UserError, match=r"\(--to\) is a device or a pipe"):
            disk.make_place(special, "--to")
    with pytest.raises(UserError, match=r"file \(--out\): File exists"):
        disk.make_folder(tmp_path / "file", "--out")
    with (
        full_disk(tmp_path, 0),
        pytest.raises(DiskError, match=r"new \(--out\): No space left on device. Make room"),
    ):
        disk.make_folder(tmp_path / "new", "--out")


def test_the_writer_of_a_folder_removes_what_a_killed_one_left(tmp_path):
    temporary.beside(tmp_path / "metrics.json").write_text("half")
    with lock.one_writer(tmp_path):
        assert not list(tmp_path.glob(".m*"))


def left_by(process: int, path):
    """Returns the temporary name of a path for another process."""
    name = temporary.beside(path).name
    return path.with_name(name.replace(f"_{os.getpid()}.tmp", f"_{process}.tmp"))


@pytest.mark.parametrize("name", ["found.csv", ".begun", "[x]*.csv", "x" * 200])
def test_a_write_removes_what_a_killed_one_left_of_the_file(tmp_path, name):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    path, other = tmp_path / name, tmp_path / "another"
    dead, living = left_by(ended.pid, path), left_by(os.getppid(), path)
    nested = left_by(ended.pid, dead)  # of a writer that was given the temporary name
    for each in (dead, nested, living, left_by(ended.pid, other)):
        each.write_text("half")
    atomic.write_bytes(path, b"whole")
    assert sorted(tmp_path.iterdir()) == sorted([path, living, left_by(ended.pid, other)])


HOST, TABLE = temporary._host(), temporary._process_table()


@pytest.mark.parametrize(
    "name, hours, kept",
    [
        (f".a.rows.{HOST}_{TABLE}_DEAD.tmp", 0, False),
        (f".link.{HOST}_{TABLE}_DEAD.1f2e.tmp", 0, False),
        (f".link.{HOST}_{TABLE}_LIVING.1f2e.tmp", 99, True),
        (f".a.{HOST}_{TABLE}_LIVING.tmp.{HOST}_{TABLE}_DEAD.tmp", 0, True),
        (f".a.rows.{HOST}_{TABLE}1_DEAD.tmp", 23, True),  # of another container
        (f".a.rows.{HOST}_{TABLE}1_DEAD.tmp", 25, False),
        (f".a.rows.{HOST}_DEAD.tmp", 23, True),  # by an earlier version
        (f".a.rows.{HOST}_DEAD.tmp", 25, False),
        (f".a.rows.{HOST}x_{TABLE}_DEAD.tmp", 99, True),  # of another machine
        (f"a.rows.{HOST}_{TABLE}_DEAD.tmp", 99, True),
        ("tmp1234", 99, True),
        (".a.tmp", 99, True),
    ],
)
@pytest.mark.parametrize("is_folder", [False, True])
def test_the_cache_folder_keeps_nothing_of_the_dead(
    name, hours, kept, is_folder, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    name = name.replace("DEAD", str(ended.pid)).replace("LIVING", str(os.getpid()))
    left = tmp_path / "lift_jax" / "some" / name
    left.parent.mkdir(parents=True)
    outside = tmp_path / "run" / "file"
    outside.parent.mkdir()
    outside.touch()
    if is_folder:
        left.mkdir()
        (left / "folder").symlink_to(outside.parent, target_is_directory=True)
    else:
        left.touch()
    then = time.time() - 3600 * hours
    os.utime(left, (then, then))
    cache.remove_leftovers()
    assert left.exists() == kept and outside.exists()


def test_a_temporary_folder_is_removed_at_its_end_or_by_the_next_process(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = tmp_path / f".copy.{HOST}_{TABLE}_{ended.pid}.1f2e.tmp"
    (left / "run").mkdir(parents=True)
    with pytest.raises(KeyError), atomic.temporary_folder(tmp_path, "copy") as folder:
        assert not left.exists() and folder in atomic.UNFINISHED  # which Ctrl-C removes
        with atomic.temporary_folder(tmp_path, "copy") as other:
            (other / "a").touch()
        assert list(tmp_path.iterdir()) == [folder]
        raise KeyError
    assert not list(tmp_path.iterdir()) and folder not in atomic.UNFINISHED


def test_a_new_folder_is_complete_or_absent(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = left_by(ended.pid, tmp_path / "m")
    left.mkdir()
    (left / "half").write_text("")
    with pytest.raises(KeyError), atomic.new_folder(tmp_path / "m") as folder:
        assert not left.exists()
        (folder / "a").write_text("x")
        raise KeyError
    assert not list(tmp_path.iterdir())
    with atomic.new_folder(tmp_path / "m") as folder:
        (folder / "a").write_text("x")
    assert [p.name for p in tmp_path.rglob("*")] == ["m", "a"]
    with pytest.raises(DiskError, match="Move away what lies there"):
        with atomic.new_folder(tmp_path / "m"):
            pass
    assert [p.name for p in tmp_path.rglob("*")] == ["m", "a"]
