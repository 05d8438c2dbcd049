"""Tests of run folders at an address: a fake of gs:// in a folder, and real file:// addresses."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import numpy as np
import pytest
from etils import epath
from fsspec.implementations.local import LocalFileSystem
from rich.console import Console
from support.commands import run_command
from support.runs import train_and_test
from support.small_sets import draw_noise, load

from configs import folder
from lift_jax.data.images import decode
from lift_jax.errors import UserError
from lift_jax.output.terminal import Terminal
from lift_jax.runs import remote
from lift_jax.storage import reading

pytestmark = pytest.mark.slow  # whole runs, or many compilations


class Bucket(LocalFileSystem):
    """A file system like gcsfs: its paths have no leading slash, and lie below `base` here."""

    protocol = ("gs",)
    cachable = False
    base: Path
    broken = False

    @classmethod
    def _strip_protocol(cls, path):
        path = str(path).removeprefix("gs://").removeprefix(str(cls.base)).strip("/")
        return f"{cls.base}/{path}"

    def put_file(self, local, remote, **kwargs):
        if self.broken:
            raise OSError("403 Forbidden")
        shutil.copyfile(local, self._strip_protocol(remote))

    def get_file(self, remote, local, **kwargs):
        shutil.copyfile(self._strip_protocol(remote), local)


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    monkeypatch.setattr(Bucket, "base", tmp_path / "cloud", raising=False)
    monkeypatch.setattr(remote, "SECONDS", 0.05)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    names = ("gs", "gcs")
    for name in names:
        fsspec.register_implementation(name, Bucket, clobber=True)
    forget = epath.backend.fsspec_backend._get_filesystem.cache_clear
    forget()
    yield Bucket.base
    forget()


@pytest.fixture
def photos(bucket):
    """Makes folders of images and a list of them, at an address and the same here."""
    for place in (bucket / "photos", bucket.parent / "photos"):
        for number, name in enumerate(("cat", "dog", "fox 10", "fox 9")):
            draw_noise(place / name, 4, seed=(number,))
        lines = [f"cat/{i}.png 0\ndog/{i}.png 1\n" for i in range(4)]
        (place / "list.txt").write_text("".join(lines))
    return "gs://photos", str(bucket.parent / "photos")


@pytest.mark.parametrize("changes", [
    {"name": "folder"}, {"name": "list", "train_list": "list.txt", "test_list": "list.txt"},
], ids=str)  # fmt: skip
def test_data_in_a_bucket_is_data_in_a_folder(changes, photos):
    there, here = (load(root=root, **changes) for root in photos)
    assert there.class_names == here.class_names
    for a, b in ((there.train, here.train), (there.test, here.test)):
        assert np.array_equal(a.labels, b.labels) and len(a)
        for i in range(len(a)):
            assert np.array_equal(np.asarray(a.images[i]), np.asarray(b.images[i]))
        assert a.images.name(0).startswith("gs://photos/")


def test_layouts_in_a_bucket_are_those_in_a_folder(bucket):
    layout = (
        "Training/Training/cat/1.png", "Training/Training/dog/1.png", "Training/a.csv",
        "Testing/dog/2.png", "pred/x.png", ".hidden/train/cat/1.png", "Testing/dog/a.mp4",
    )  # fmt: skip
    for place in (bucket / "photos", bucket.parent / "photos"):
        for name in layout:
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).touch()
    there, here = (load("folder", root=r) for r in ("gs://photos", bucket.parent / "photos"))
    assert there.class_names == here.class_names == ("cat", "dog")
    assert there.test.images.name(0) == "gs://photos/Testing/dog/2.png" and len(there.test) == 1
    notes = [note.replace(str(bucket.parent / "photos"), "gs://photos") for note in here.notes]
    assert list(there.notes) == notes and "training from Training/Training" in notes[0]


@pytest.mark.parametrize("told", [True, False])
def test_a_file_that_is_too_large_is_not_fetched_where_its_size_is_known(told, bucket, monkeypatch):
    path = bucket / "mine/list.txt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x" * 2000)
    fetched, info, opened = [], Bucket.info, Bucket._open
    if not told:
        monkeypatch.setattr(Bucket, "info", lambda *a, **k: info(*a, **k) | {"size": None})
    monkeypatch.setattr(Bucket, "_open", lambda *a, **k: fetched.append(1) or opened(*a, **k))
    with pytest.raises(UserError, match="list.txt has 2.0 kB; expected at most 1.0 kB. Cut it."):
        reading.read_bytes(epath.Path("gs://mine/list.txt"), 1000, "Cut it.")
    assert bool(fetched) != told
    assert reading.read_bytes(epath.Path("gs://mine/list.txt"), 2000) == path.read_bytes()


def test_what_is_wrong_with_data_in_a_bucket_is_named(photos, bucket, monkeypatch):
    with pytest.raises(UserError, match="There is no file .*gs://photos/lost.txt"):
        load(name="list", root="gs://photos", train_list="lost.txt", test_list="list.txt")
    with pytest.raises(UserError, match="There is no directory gs://nothing"):
        load(name="list", root="gs://nothing", train_list="list.txt", test_list="list.txt")
    data = load(name="folder", root="gs://photos")
    with monkeypatch.context() as patch:
        patch.setattr(decode, "MAX_BYTES", 50)
        with pytest.raises(UserError, match=r"gs://photos/cat/.* bytes, too many for an image"):
            data.train.images[0]
    (bucket / data.train.images.name(0).removeprefix("gs://")).unlink()
    with pytest.raises(UserError, match="Cannot read the image gs://photos/cat/.*no such file"):
        data.train.images[0]
    (bucket / "photos/empty").mkdir()
    (bucket / "photos/empty/note.txt").write_text("-")
    notes = load(name="folder", root="gs://photos").notes
    assert any("without images: gs://photos/empty" in note for note in notes)
    with pytest.raises(UserError, match="copy it here"):
        load(name="cifar100", root="gs://photos")


def config_of(**changes):
    config = folder.get_config("debug")
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config


def run(address, **changes):
    with remote.local_copy(address, Console(quiet=True)) as workdir:
        return train_and_test(config_of(**changes), workdir)


def files_of(path):
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_a_run_in_a_bucket_is_a_run_in_a_folder(bucket, tmp_path):
    found = run("gs://mine/runs/a", train__epochs=3)
    alone = train_and_test(config_of(train__epochs=3), tmp_path / "here")
    assert found["test"] == alone["test"]
    there, here = files_of(bucket / "mine/runs/a"), files_of(tmp_path / "here")
    assert "checkpoints/6/_CHECKPOINT_METADATA" in there and "log.jsonl" in there
    assert not any(name.startswith(".") or "orbax-checkpoint-tmp" in name for name in there)
    steps = {name.split("/")[1] for name in there if name.startswith("checkpoints/")}
    assert steps == {name.split("/")[1] for name in here if name.startswith("checkpoints/")}
    assert not any((tmp_path / "cache/lift_jax/remote").iterdir())  # the copy is gone
    again = run("gs://mine/runs/a", train__epochs=3)
    assert again["seconds"] == found["seconds"]  # finished: nothing was trained


def test_what_was_torn_up_there_is_passed_over(bucket, tmp_path):
    run("gs://mine/a", train__epochs=2)
    torn = bucket / "mine/a/checkpoints/4"
    (torn / remote.MARKER).unlink()  # killed while it was sent
    with remote.local_copy("gs://mine/a", Console(quiet=True)) as workdir:
        assert sorted(p.name for p in Path(workdir, "checkpoints").iterdir()) == ["3"]
        train_and_test(config_of(train__epochs=2), workdir)
    assert (torn / remote.MARKER).exists()


def test_export_and_report_take_addresses(bucket, tmp_path, capsys):
    run("gs://mine/a")
    to = tmp_path / "out.safetensors"
    run_command("export", "--run=gs://mine/a", f"--to={to}")
    assert to.exists()
    run_command("report", "gs://mine/a")
    assert "<h1>a</h1>" in (bucket / "mine/a/report.html").read_text()
    before = files_of(bucket)
    run_command("report", "gs://mine/a", "gs://mine/a", "--out", tmp_path / "compared")
    assert ".copy" not in (tmp_path / "compared" / "report_compare.html").read_text()
    assert files_of(bucket) == before  # not even a claim


def test_what_cannot_be_sent_is_kept(bucket, monkeypatch, tmp_path):
    monkeypatch.setattr(Bucket, "broken", True)
    with pytest.raises(UserError, match="403 Forbidden.*is kept in .*copy it") as error:
        run("gs://mine/a")
    kept = Path(str(error.value).partition("kept in ")[2].partition(": copy")[0])
    assert (kept / "metrics.json").exists()


@pytest.mark.parametrize("broken", [False, True])
def test_the_error_of_the_run_is_told_whatever_the_upload_does(
    broken, bucket, tmp_path, capsys, monkeypatch
):
    console, copies = Terminal(width=500), tmp_path / "cache/lift_jax/remote"
    with pytest.raises(UserError, match="^The loss is not a number$"):
        with remote.local_copy("gs://mine/a", console) as workdir:
            Path(workdir, "log.jsonl").write_text("a line")
            monkeypatch.setattr(Bucket, "broken", broken)
            raise UserError("The loss is not a number")
    said = capsys.readouterr().out
    assert ("Warning: Cannot send to gs://mine/a: 403 Forbidden" in said) == broken
    assert len(list(copies.iterdir())) == broken  # kept where it is the only one
    assert (bucket / "mine/a/log.jsonl").exists() == (not broken)


def test_no_copy_is_left_of_what_cannot_be_read(bucket, tmp_path, monkeypatch):
    (bucket / "mine/a").mkdir(parents=True)
    (bucket / "mine/a/log.jsonl").write_text("a line")
    monkeypatch.setattr(Bucket, "get_file", lambda *a, **k: 1 / 0)
    with pytest.raises(UserError, match="Cannot read .*mine/a"):
        with remote.local_copy("gs://mine/a", Console(quiet=True)):
            pass
    assert not list((tmp_path / "cache/lift_jax/remote").iterdir())


@pytest.mark.parametrize(("address", "words"), [
    ("s3://mine/a", "pip install s3fs"), ("gs3://mine/a", "gs3.*Expected a folder, or an address"),
])  # fmt: skip
def test_addresses_that_cannot_be_used(address, words):
    with pytest.raises(UserError, match=words):
        run(address)


def test_a_command_for_folders_says_so(tmp_path):
    with pytest.raises(UserError, match="needs a folder of this machine"):
        train_and_test(config_of(), "gs://mine/a")


def test_the_copy_of_a_killed_process_goes_unless_it_was_not_sent(bucket, tmp_path, capsys):
    code = (
        "import os; from rich.console import Console; from lift_jax.runs import remote\n"
        f"copy = remote.local_copy('file://{tmp_path}/up', Console(quiet=True))\n"
        "open(copy.__enter__() + '/a', 'w').close(); os.kill(os.getpid(), 9)"
    )
    copies = tmp_path / "cache/lift_jax/remote"
    for _ in range(2):  # the second process removes the copy of the first
        assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
        (left,) = copies.iterdir()
        assert (left / "a").exists()
    (left / remote.UNSENT).write_text("gs://mine/a")
    with remote.local_copy("gs://mine/b", Terminal(width=500)) as workdir:
        assert {*copies.iterdir()} == {left, Path(workdir)}
        with remote.local_copy("gs://mine/c", Console(quiet=True)):
            assert Path(workdir).exists()  # of a living process
    assert f"{left} holds what could not be sent to gs://mine/a. Copy it" in capsys.readouterr().out
    (left / remote.UNSENT).unlink()
    with remote.local_copy("gs://mine/b", Console(quiet=True)):
        assert not left.exists()
    assert not [*copies.iterdir()]


def test_an_upload_that_succeeds_later_leaves_nothing(bucket, tmp_path, monkeypatch):
    with remote.local_copy("gs://mine/a", Console(quiet=True)) as workdir:
        monkeypatch.setattr(Bucket, "broken", True)
        Path(workdir, "log.jsonl").write_text("a line")
        deadline = time.monotonic() + 20
        while not (note := Path(workdir, remote.UNSENT)).exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert note.read_text() == "gs://mine/a"
        monkeypatch.setattr(Bucket, "broken", False)
    assert (bucket / "mine/a/log.jsonl").read_text() == "a line"
    assert not (bucket / "mine/a" / remote.UNSENT).exists()
    assert not [*(tmp_path / "cache/lift_jax/remote").iterdir()]


def test_killed_it_continues_from_the_address(tmp_path):
    """A process that is killed after its first upload is continued by another with its own copy."""
    up = tmp_path / "up"
    command = [
        sys.executable, "-c",
        "import lift_jax.runs.remote as r; r.SECONDS = 0.02\n"
        "from lift_jax import main; main.main()",
        "--config=configs/folder.py:debug", "--config.train.epochs=20", f"--workdir=file://{up}",
    ]  # fmt: skip
    xla = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=1"
    environment = os.environ | {"XLA_FLAGS": xla, "XDG_CACHE_HOME": str(tmp_path / "one")}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while not list(up.glob(f"checkpoints/*/{remote.MARKER}")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    environment["XDG_CACHE_HOME"] = str(tmp_path / "two")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0 and "Continuing" in done.stdout, done.stderr
    assert (up / "report.html").exists()
    straight = train_and_test(config_of(train__epochs=20), tmp_path / "straight")
    assert f'"overall": {straight["test"]["overall"]}' in (up / "metrics.json").read_text()
