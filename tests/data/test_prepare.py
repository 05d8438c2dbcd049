"""Tests of preparing a training split: the files, kills, and when the prepared form is used."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from support.commands import run_command

from lift_jax.data.images.decode import Decoding, Picture
from lift_jax.data.images.views import TrainTransform
from lift_jax.data.prepared import prepare, shards
from lift_jax.data.types import ArrayImages, Dataset, FileImages, Split
from lift_jax.errors import UserError

SIZES = [(90, 120), (120, 90), (40, 60), (64, 64), (200, 70)]
QUIET = Console(quiet=True)


def smooth(height, width, seed):
    """Returns a grey picture, because colours are kept at half the resolution."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (height // 9 + 2, width // 9 + 2, 3), np.uint8))
    grey = small.convert("L").convert("RGB")
    return grey.resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Makes twelve images: JPEGs, and every fourth a PNG."""
    root = tmp_path_factory.mktemp("images")
    names = [f"{i}.{'png' if i % 4 == 3 else 'jpg'}" for i in range(12)]
    for i, name in enumerate(names):
        smooth(*SIZES[i % len(SIZES)], i).save(root / name)
    return FileImages(str(root), names)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(prepare, "SHARD", 5)


def made(images, folder, **options):
    split = Split(images, np.arange(len(images)), skip=options.pop("skip", False))
    options = {"size": 50, "workers": 2, "console": QUIET} | options
    prepare.prepare(split, folder, **options)
    return shards.use(Dataset(split, split, ("a", "b")), str(folder))


def test_images_are_reduced_and_crops_are_the_same_part(files, tmp_path):
    data = made(files, tmp_path / "P")
    assert data.prepared == 50 and "short side 50" in data.notes[0]
    assert data.test.images is files  # results are those of the images as they are
    assert len(list((tmp_path / "P").glob("*.array_record"))) == 3
    transform = TrainTransform(32, "mda", "bicubic", "min", 0.08, True, 1)
    for i in range(len(files)):
        found, taken = data.train.images[i], files[i]
        assert (found.height, found.width) == (taken.height, taken.width)
        short = min(taken.height, taken.width)
        assert min(np.asarray(found).shape[:2]) == min(short, 50)
        views = [transform(image, np.random.default_rng(i), 0) for image in (found, taken)]
        error = np.abs(views[0] - views[1].astype(int))
        assert error.mean() < (2 if short <= 50 else 8), i
        # the same box, drawn by the same numbers, of an image with fewer pixels
        small = Picture(taken.height, taken.width, lambda *_, f=found: np.asarray(f))
        assert np.array_equal(views[0], transform(small, np.random.default_rng(i), 0))


def test_small_jpegs_are_kept_as_they_are(files, tmp_path):
    data = made(files, tmp_path / "P", size=500)
    for i in range(len(files)):
        same = np.asarray(data.train.images[i]).astype(int) - np.asarray(files[i])
        assert np.abs(same).max() <= (0 if i % 4 != 3 else 12)


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.mark.slow
def test_killed_it_continues_and_the_bytes_are_the_same(files, tmp_path):
    """A process that is killed at random moments and run again writes the same bytes."""
    code = f"""
import sys, time; import numpy as np; from pathlib import Path; from rich.console import Console
from lift_jax.data import fingerprint, types; from lift_jax.data.prepared import prepare
class Slow(types.FileImages):
    def content(self, i):
        time.sleep(0.05)
        return super().content(i)
prepare.SHARD = 2; fingerprint.FileImages = types.FileImages
files = Slow({files.root!r}, {files.paths!r})
prepare.prepare(types.Split(files, np.arange(12)), Path(sys.argv[1]), size=50, workers=2, console=Console())
"""  # noqa: E501
    command = [sys.executable, "-c", code]
    subprocess.run([*command, str(tmp_path / "straight")], check=True, timeout=100)
    target = tmp_path / "killed"
    for count in (1, 3):
        process = subprocess.Popen([*command, str(target)], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while len(list(target.glob("*.array_record"))) < count:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (target / shards.INDEX).exists()
    before = digests(target)
    done = {name for name in before if name.startswith("train-")}
    stamps = {name: (target / name).stat().st_mtime_ns for name in done}
    subprocess.run([*command, str(target)], check=True, timeout=100)
    assert all((target / name).stat().st_mtime_ns == time for name, time in stamps.items())
    assert digests(target) == digests(tmp_path / "straight")
    index = json.loads((target / shards.INDEX).read_text())
    assert index["count"] == 12 and len(index["shards"]) == 6


def test_it_is_not_used_for_other_images(files, tmp_path):
    root = tmp_path / "images"
    root.mkdir()
    for i in range(6):
        smooth(60, 70, i).save(root / f"{i}.png")
    images = FileImages(str(root), [f"{i}.png" for i in range(6)])
    folder = tmp_path / "P"
    assert made(images, folder).prepared == 50
    split = Split(images, np.arange(6))
    data = Dataset(split, split, ("a",))
    assert shards.use(data, "none").prepared == 0
    fast = replace(split, images=replace(images, how=Decoding(fast=True)))
    assert shards.use(replace(data, train=fast), str(folder)).prepared == 50
    turned = replace(split, images=replace(images, how=Decoding(exif=True)))
    assert shards.use(replace(data, train=turned), str(folder)).prepared == 0
    os.utime(root / "3.png", (1, 1))
    changed = shards.use(data, str(folder))
    assert changed.prepared == 0 and "have changed since" in changed.notes[0]
    with pytest.raises(UserError, match="holds other images"):
        made(images, folder)


def test_damage_is_seen(files, tmp_path):
    folder = tmp_path / "P"
    data = made(files, folder)
    split = Split(files, np.arange(12))
    original = Dataset(split, split, ("a",))
    with pytest.raises(UserError, match="short side of 50"):
        made(files, folder, size=60)
    shard = folder / "train-00001-of-00003.array_record"
    content = shard.read_bytes()
    shard.write_bytes(content[:-100])
    assert "cut short" in shards.use(original, str(folder)).notes[0]
    shard.write_bytes(content)
    assert shards.use(original, str(folder)).prepared == data.prepared
    shards.check(folder)
    at = content.index(b"\xff\xd8")  # the first byte of a JPEG
    shard.write_bytes(content[:at] + b"\0" + content[at + 1 :])
    with pytest.raises(UserError, match=r"00001-of-00003.*is damaged: its checksum"):
        shards.check(folder)
    again = shards.use(Dataset(split, split, ("b",)), str(folder)).train.images
    again = replace(again, files=tuple(shutil.copy(file, tmp_path) for file in again.files))
    with pytest.raises(UserError, match="Cannot read .*prepare it again"):
        again[5]
    index = json.loads((folder / shards.INDEX).read_text())
    (folder / shards.INDEX).write_text("{")
    with pytest.raises(UserError, match="prepared.json is not JSON.*prepare it again"):
        shards.use(original, str(folder))
    elsewhere = index["shards"][0] | {"name": "../a"}
    for broken in ({}, {"stamp": 5}, index | {"shards": [5]}, index | {"shards": [elsewhere]}):
        (folder / shards.INDEX).write_text(json.dumps(broken))
        with pytest.raises(UserError, match="prepared.json (is|names).*prepare it again"):
            shards.use(original, str(folder))


def test_unreadable_images(tmp_path):
    for i in range(7):
        smooth(60, 70, i).save(tmp_path / f"{i}.png")
    (tmp_path / "4.png").write_bytes(b"no image")
    images = FileImages(str(tmp_path), [f"{i}.png" for i in range(7)])
    with pytest.raises(UserError, match=r"4\.png"):
        made(images, tmp_path / "P")
    data = made(images, tmp_path / "Q", skip=True)
    assert np.asarray(data.train.images[5]).shape == (50, 58, 3)
    with pytest.raises(UserError, match=r"4\.png.*Replace the file"):
        data.train.images[4]


def test_shards_hold_the_exact_pixels_whatever_decode_says(tmp_path):
    """Colours at half the resolution, which data.decode=fast smooths otherwise."""
    rng = np.random.default_rng(0)
    colours = Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).resize((200, 150))
    colours.save(tmp_path / "0.jpg", subsampling=2)
    images = FileImages(str(tmp_path), ["0.jpg"])
    fast = replace(images, how=Decoding(fast=True))
    assert not np.array_equal(np.asarray(images[0]), np.asarray(fast[0]))
    for name, way in (("exact", images), ("fast", fast)):
        made(way, tmp_path / name)
    written = [next((tmp_path / name).glob("*.array_record")) for name in ("exact", "fast")]
    assert written[0].read_bytes() == written[1].read_bytes()


def test_a_folder_prepared_anew_is_read_anew(files, tmp_path):
    folder = tmp_path / "P"
    assert min(np.asarray(made(files, folder).train.images[0]).shape[:2]) == 50
    shutil.rmtree(folder)
    assert min(np.asarray(made(files, folder, size=40).train.images[0]).shape[:2]) == 40


def test_what_cannot_be_prepared(files, tmp_path):
    pixels = np.zeros((3, 4, 4, 3), np.uint8)
    with pytest.raises(UserError, match="these images are not files"):
        made(ArrayImages(pixels, "made up", np.arange(3)), tmp_path)
    with pytest.raises(UserError, match=r"gone\.jpg cannot be found.*Put the file back"):
        made(replace(files, paths=[*files.paths, "gone.jpg"]), tmp_path, skip=True)
    with pytest.raises(UserError, match=r"memory:.*jpg lies at an address.*Copy them"):
        made(FileImages("memory://photos", ["0.jpg"]), tmp_path)


def test_default_size_and_place(files, monkeypatch, tmp_path):
    assert prepare.default_size(224) == 256 and prepare.default_size(336) == 384
    place = shards.folder_of(files, "")
    assert place.parent.name == "prepared" and len(place.name) == 24
    assert place != shards.folder_of(replace(files, how=Decoding(exif=True)), "")
    assert place == shards.folder_of(replace(files, how=Decoding(fast=True)), "")
    assert shards.folder_of(files, str(tmp_path)) == tmp_path


@pytest.mark.parametrize(("flags", "side"), [([], 256), (["--prepare_size=40"], 40)])
def test_the_command_says_what_it_wrote_and_checks_it_the_second_time(
    flags, side, files, tmp_path, capsys
):
    for name in ("train/a", "train/b", "test/a", "test/b"):
        shutil.copytree(files.root, tmp_path / "photos" / name)
    arguments = [
        "--prepare", "--config=folder", f"--config.data.root={tmp_path / 'photos'}",
        f"--config.data.prepared={tmp_path / 'P'}", *flags,
    ]  # fmt: skip
    run_command("data", *arguments)
    said = " ".join(capsys.readouterr().out.split())
    assert f"24 images to {tmp_path / 'P'}, short side at most {side} pixels." in said
    assert "Training with this config uses it. Give --config.data.prepared=" in said
    assert ("clip_vit_b16 is not on this machine" in said) == (not flags)
    run_command("data", *arguments)
    assert "is complete and its checksums are right" in " ".join(capsys.readouterr().out.split())
