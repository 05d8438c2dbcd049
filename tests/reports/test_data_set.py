"""Tests of `python -m lift_jax.data`: its findings in a data set, its output and its files."""

import csv
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from configs import folder
from lift_jax.data import datasets, inspect
from lift_jax.data.types import ArrayImages, Split
from lift_jax.errors import UserError
from lift_jax.reports.data_set import crops
from lift_jax.reports.data_set.look import show_data
from lift_jax.settings.parse import parse


@pytest.fixture
def photos(tmp_path):
    """Makes three classes with copies across splits, across labels and within, and a torn file."""
    rng = np.random.default_rng(0)
    for split, counts in {"train": (6, 4, 2), "test": (2, 1, 0)}.items():
        for name, count in zip(("fox", "hare", "$tick"), counts, strict=True):
            folder = tmp_path / "photos" / split / name
            if count:
                folder.mkdir(parents=True)
            for i in range(count):
                noise = rng.integers(0, 255, (20 + i, 30, 3), dtype=np.uint8)
                Image.fromarray(noise).save(folder / f"{i}.png")
    root = tmp_path / "photos"
    shutil.copy(root / "train/fox/0.png", root / "test/fox/copy.png")
    shutil.copy(root / "train/fox/1.png", root / "train/hare/copy.png")
    Image.open(root / "train/fox/2.png").save(root / "train/fox/again.bmp")  # the same pixels
    (root / "train/hare/torn.png").write_bytes((root / "train/hare/0.png").read_bytes()[:500])
    return root


def look(root, workdir, *, read=True, width=100):
    config = folder.get_config("debug")
    config.data.name, config.data.root = "folder", str(root)
    workdir.mkdir()
    console = Console(record=True, width=width)
    found = show_data(config, workdir, read, console)
    return found, console.export_text()


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("hare", "red_fox"), ["Prompts: 'a photo of a hare.', 'a photo of a red fox.'"]),
        (("1.hare", "2.fox"), ["'a photo of a fox.'", "'1.hare' -> 'hare'"]),
        (("1", "2"), ["Warning: No prompts", "'1', '2'", "data.class_names=FILE"]),
    ],
)
def test_it_shows_prompts(tmp_path, names, words):
    for name in names:
        for i in range(2):
            (tmp_path / "photos" / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (9, 9)).save(tmp_path / "photos" / name / f"{i}.png")
    said = look(tmp_path / "photos", tmp_path / "W", read=False)[1]
    assert [word for word in words if word not in " ".join(said.split())] == []


def test_what_it_finds(photos, tmp_path):
    found, said = look(photos, tmp_path / "W")
    images = {one.kind: one.images for one in found}
    assert [one.kind for one in found] == ["unreadable", "in two splits", "two labels", "duplicate"]
    # train holds fox 0 to 5 and again.bmp in natural order, then hare, then $tick
    with open(tmp_path / "W" / "findings.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    by_kind = {kind: [row for row in rows if row["kind"] == kind] for kind in images}
    paths = {kind: sorted(row["path"].split("photos/")[1] for row in own)
             for kind, own in by_kind.items()}  # fmt: skip
    assert paths == {
        "unreadable": ["train/hare/torn.png"],
        "in two splits": ["test/fox/copy.png", "train/fox/0.png"],
        "two labels": ["train/fox/1.png", "train/hare/copy.png"],
        "duplicate": ["train/fox/2.png", "train/fox/again.bmp"],
    }
    assert "truncated" in by_kind["unreadable"][0]["cause"].lower()
    assert {row["class"] for row in by_kind["two labels"]} == {"fox", "hare"}
    for words in ("3 classes", "unreadable: 1 images", "two labels: 2 images",
                  "No image in test (1 classes): $tick"):  # fmt: skip
        assert words in said


def test_kinds_of_images_are_counted(photos, tmp_path):
    said = look(photos, tmp_path / "plain")[1]
    assert "Kinds of images" not in said and not (tmp_path / "plain" / "kinds.csv").exists()
    image = Image.open(photos / "train/fox/0.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("train/fox/a.jpg", "train/fox/b.jpg", "test/fox/c.jpg"):
        image.rotate(len(name)).save(photos / name, exif=exif)
    image.convert("CMYK").save(photos / "train/hare/d.jpg")
    said = look(photos, tmp_path / "W", width=200)[1]
    assert [" ".join(line.split()) for line in said.splitlines() if line.startswith("│ EXIF")] == [
        "│ EXIF orientation │ 3 │ not rotated, as in the papers (data.exif=True does) │ "
        f"{photos}/train/fox/a.jpg │"
    ]
    assert f"{photos}/train/hare/d.jpg" in said
    with open(tmp_path / "W" / "kinds.csv", encoding="utf-8", newline="") as file:
        rows = [(row["kind"], row["split"], row["path"]) for row in csv.DictReader(file)]
    assert ("CMYK", "train", f"{photos}/train/hare/d.jpg") in rows and len(rows) == 4


def test_faults_of_folders_are_found_together(photos, tmp_path):
    (photos / "train/empty").mkdir()
    for name in ("train/Hare/1.png", "test/bird/2.png", "test/Fox/3.png"):
        (photos / name).parent.mkdir()
        shutil.copy(photos / "train/fox/3.png", photos / name)
    for read in (True, False):
        _, said = look(photos, tmp_path / f"W{read}", read=read, width=1000)
        with open(tmp_path / f"W{read}" / "findings.csv", encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if not row["split"]]
        assert {row["path"].split("photos/")[1]: row["kind"] for row in rows} == {
            "train/empty": "class folder without images",
            "train/hare": "one class, two folders",
            "test/bird": "classes without training images",
        }
        assert (
            "lacks: bird, Fox ('Fox' and 'fox' are spelled differently" in said
            and "'Hare' and 'hare'" in said
        )
        assert "would stop: one class, two folders, classes without training images" in said
        assert "unreadable: 1 images" in said or not read
    config = folder.get_config("debug")
    config.data.name, config.data.root = "folder", str(photos)
    with pytest.raises(UserError, match="'Hare' and 'hare'.*1 more"):
        datasets.load(parse(config).data, 0)


@pytest.mark.parametrize("layout, kinds", [
    ("train/a/1.png train/b/1.png test/c/1.png test/d/1.png", "classes without training images"),
    ("a/1.png b/1.png", "no test images"),
    ("A/a/1.png A/b/1.png B/a/1.png B/b/1.png C/1.png D/",
     "classes in doubt, class folder without images"),
    ("a/1.png a/2.png", "one class alone"),
])  # fmt: skip
def test_it_shows_what_there_is_of_faulty_folders(tmp_path, layout, kinds):
    for path in layout.split():
        place = tmp_path / "photos" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9)).save(place) if place.suffix else place.mkdir()
    _, said = look(tmp_path / "photos", tmp_path / "W", width=1000)
    with open(tmp_path / "W" / "findings.csv", encoding="utf-8", newline="") as file:
        found = [row["kind"] for row in csv.DictReader(file) if not row["split"]]
    assert ", ".join(found) == kinds and "Training would stop: " + found[0] in said


def test_it_shows_all_faults_of_lists(photos, tmp_path):
    train = photos / "train.txt"
    train.write_text("train/fox/0.png 0\ntrain/fox/3.png 7\ntrain/hare/0.png 1\n")
    (photos / "test.txt").write_text("test/fox/0.png 1\ntrain/fox/0.png 1\ntest/fox/1.png 9\n")
    (photos / "names.txt").write_text("fox\nhare\n")
    config = folder.get_config("debug")
    config.data.update(name="list", root=str(photos), train_list="train.txt", test_list="test.txt",
                       class_names="names.txt")  # fmt: skip
    data = datasets.load(parse(config).data, 0, tolerant=True)
    assert [(fault.kind, fault.path) for fault in data.faults] == [
        ("label out of range", "train/fox/3.png"), ("label out of range", "test/fox/1.png"),
        ("one path, two labels", "train/fox/0.png"),
    ]  # fmt: skip
    assert data.counts.tolist() == [1, 1] and data.test.labels.tolist() == [1, 1]
    with pytest.raises(UserError, match="train.txt, line 2: the label 7.*2 more"):
        datasets.load(parse(config).data, 0)


@pytest.mark.parametrize("name, good, bad", [
    ("t.txt", ["train/fox/0.png 0", "train/hare/0.png 1"],
     ["train/fox/1.png", "train/fox/2.png x", "a.png 99999999999"]),
    ("t.csv", ["path,label", "train/fox/0.png,0", "train/hare/0.png,1"],
     ["train/fox/1.png", "train/fox/2.png,x", ",0", "a.png,1,2"]),
    ("t.jsonl", ['{"path": "train/fox/0.png", "class": "fox"}',
                 '{"path": "train/hare/0.png", "class": "hare"}'],
     ['{"path": 3, "class": "fox"}', "{", '{"path": "a.png"}', "[]"]),
])  # fmt: skip
def test_lines_that_cannot_be_read_are_shown_together(photos, tmp_path, name, good, bad):
    (photos / name).write_text("\n".join([*good, *bad, *good[-2:]]))
    config = folder.get_config("debug")
    kind = "list" if name == "t.txt" else "table"
    config.data.update(name=kind, root=str(photos), train_list=name, test_share=0.5)
    if kind == "list":
        config.data.test_list = name
    data = datasets.load(parse(config).data, 0, tolerant=True)
    lines = range(len(good) + 1, len(good) + len(bad) + 1)
    of_train = data.faults[: len(bad)]
    assert [fault.path for fault in of_train] == [f"{photos / name}, line {n}" for n in lines]
    assert all(fault.stops and fault.path in fault.cause for fault in of_train)
    with pytest.raises(UserError, match=f"line {lines[0]}") as error:
        datasets.load(parse(config).data, 0)
    assert f"(lift-jax data lists {len(data.faults) - 1} more.)" in str(error.value)


def test_unknown_classes_of_a_table_are_shown_together(photos, tmp_path):
    (photos / "t.csv").write_text(
        "path,class,split\ntrain/fox/0.png,fox,train\ntrain/hare/0.png,hare,train\n"
        "test/fox/0.png,lynx,test\ntest/hare/0.png,hare,test\ntest/fox/1.png,wolf,val\n"
    )
    config = folder.get_config("debug")
    config.data.update(name="table", root=str(photos), train_list="t.csv")
    data = datasets.load(parse(config).data, 0, tolerant=True)
    assert [(fault.kind, fault.path) for fault in data.faults] == [
        ("unknown class", "test/fox/0.png"), ("unknown class", "test/fox/1.png"),
    ]  # fmt: skip
    assert (len(data.train), len(data.test), data.val) == (2, 1, None)
    with pytest.raises(UserError, match=r"line 4: the class is 'lynx'.*lists 1 more"):
        datasets.load(parse(config).data, 0)
    (photos / "names.txt").write_text("lynx\nwolf\n")
    config.data.class_names = "names.txt"
    (photos / "t.csv").write_text("path,class\ntrain/fox/0.png,fox\ntrain/hare/0.png,hare\n")
    with pytest.raises(UserError, match="line 2: the class is 'fox', but .*names.txt lacks it"):
        datasets.load(parse(config).data, 0, tolerant=True)


def test_what_it_counts(photos, tmp_path):
    _, said = look(photos, tmp_path / "W", read=False)
    with open(tmp_path / "W" / "classes.csv", encoding="utf-8", newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    counts = {name: (int(row["train"]), int(row["test"])) for name, row in rows.items()}
    assert counts == {"fox": (7, 3), "hare": (6, 1), "$tick": (2, 0)}
    assert {row["group"] for row in rows.values()} == {"few"}
    assert "3.5" in said  # 7 / 2, the imbalance of the training split
    assert not (tmp_path / "W" / "findings.csv").exists()
    with Image.open(tmp_path / "W" / "classes.png") as plot:
        assert plot.size[0] > 1000
    with Image.open(tmp_path / "W" / "views.png") as sheet:
        assert sheet.size[0] > sheet.size[1]  # 3 images by 9 views


def test_digests_are_of_pixels_and_shape():
    flat = np.arange(24, dtype=np.uint8)
    images = [flat.reshape(2, 4, 3), flat.reshape(4, 2, 3), flat.reshape(2, 4, 3).copy()]

    class Listed(list):
        def name(self, i):
            return str(i)

    looks = list(inspect.scan(Listed(images), threads=2))
    assert [(one.height, one.width) for one in looks] == [(2, 4), (4, 2), (2, 4)]
    assert looks[0].digest == looks[2].digest != looks[1].digest


def test_many_images_come_in_order():
    pixels = np.arange(50, dtype=np.uint8)[:, None, None, None] * np.ones((4, 4, 3), np.uint8)
    images = ArrayImages(pixels, "made up", np.arange(50))
    looks = list(inspect.scan(images, threads=3))
    alone = [
        next(inspect.scan(ArrayImages(pixels[i : i + 1], "", np.zeros(1)), 1)) for i in range(50)
    ]
    assert looks == alone and len({one.digest for one in looks}) == 50
    split = Split(images, np.zeros(50))
    assert inspect.findings({"train": split}, {"train": looks}) == []


def test_backbones_that_are_not_here_are_previewed_at_224(tmp_path):
    config = folder.get_config()
    console = Console(record=True, width=200)
    assert crops.preview_resolution(config.model, console) == 224
    assert "clip_vit_b16 is not on this machine" in console.export_text()
    config.model.backbone = "demo"
    assert crops.preview_resolution(config.model, console) == 32
    config.model.resolution = 64
    assert crops.preview_resolution(config.model, console) == 64


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(UserError, match="nowhere.*data.root"):
        look(tmp_path / "nowhere", tmp_path / "W")


@pytest.mark.slow
def test_the_command(tmp_path):
    """The command runs in a new process, because its flags are for the whole process."""

    def run(*arguments):
        command = [sys.executable, "-m", "lift_jax.data", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    done = run("--config=configs/folder.py:debug", f"--workdir={tmp_path / 'W'}")
    assert done.returncode == 0, done.stderr
    assert "7 classes" in done.stdout
    files = {path.name for path in (tmp_path / "W").glob("[!.]*")}  # nor that of the lock
    assert files == {"classes.csv", "classes.png", "findings.csv", "views.png"}
    wrong = run("--config=configs/folder.py", "--config.data.rot=photos")
    assert wrong.returncode == 2 and "root" in wrong.stderr and "Traceback" not in wrong.stderr
