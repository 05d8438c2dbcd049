"""Tests of the index of a tree of images: its content, and when it is kept or stale."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from support.paths import ROOT
from support.small_sets import load, message

from lift_jax.data.sources import folder_index, image_files
from lift_jax.errors import UserError
from lift_jax.runs.answers import given as given_images


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Returns a tree of two classes that changed long ago and is large enough to be kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(folder_index, "LARGE", 3)
    root = tmp_path / "tree"
    for name in ("cat 10/1.png", "cat 10/deep/2.jpg", "cat 2/1.png", "cat 2/10.png", "cat 2/9.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    settle(root)
    return root


def settle(root):
    for parent, _, _ in os.walk(root):
        os.utime(parent, ns=(10**18, 10**18))


def images_and_note(tree):
    index = folder_index.read(tree)
    return index.images, index.note


def kept(tree):
    return list((tree.parent / "cache/lift_jax/index").glob("*"))


FOUND = {
    "cat 2": ["cat 2/1.png", "cat 2/9.png", "cat 2/10.png"],
    "cat 10": ["cat 10/1.png", "cat 10/deep/2.jpg"],
}


def test_a_large_tree_is_read_once(tree):
    found, note = images_and_note(tree)
    assert found == FOUND and list(found) == ["cat 2", "cat 10"]
    assert "5 images, kept in" in note and len(kept(tree)) == 1
    again, note = images_and_note(tree)
    assert again == FOUND and list(again) == list(found) and "from" in note
    assert load("folder", root=tree).notes == (note,)


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "cat 10/deep/new.png").touch(),
        lambda root: (root / "cat 2/1.png").unlink(),
        lambda root: (root / "cat 2/1.png").rename(root / "cat 2/2.png"),
        lambda root: (root / "cat 2").rename(root / "dog"),
        lambda root: [(root / "dog").mkdir(), (root / "dog/1.png").touch()],
        lambda root: [(root / "cat 10/deep/2.jpg").unlink(), (root / "cat 10/deep").rmdir()],
    ],
)
def test_every_change_of_names_is_seen(tree, monkeypatch, change):
    folder_index.read(tree)
    change(tree)
    found, note = images_and_note(tree)
    assert found != FOUND and note == ""  # changed just now: read, and not kept
    monkeypatch.setattr(folder_index, "LARGE", 10**9)
    kept(tree)[0].unlink()
    assert folder_index.read(tree).images == found


def test_files_that_are_not_taken_are_counted_by_ending(tree):
    for name in ("cat 2/11.JPG", "cat 10/B.PnG", "cat 10/deep/12.TIFF"):
        (tree / name).touch()
    for name in ("a.mp4", "B.MP4", "c.svg", "no ending", "deep/d.mp4", "Thumbs.db", ".DS_Store",
                 "Desktop.ini", "._1.png", "@eaDir/1.png"):  # fmt: skip
        (tree / "cat 10" / name).parent.mkdir(exist_ok=True)
        (tree / "cat 10" / name).touch()
    settle(tree)
    said = f"Not taken as images: 3 .mp4, 1 .svg, 1 without an ending; first: {tree}/cat 10/a.mp4."
    for _ in range(2):  # read, then from the cache
        data = load("folder", root=tree)
        assert said in data.notes and len(data.train) + len(data.test) == 8
    assert len(kept(tree)) == 1
    (given, others) = given_images.gather([tree, tree / "cat 10"])
    assert len(given) == 8 + 4 and all(path.suffix for path in given)
    assert (
        others[".mp4"] == (6, f"{tree}/cat 10/a.mp4") and sum(n for n, _ in others.values()) == 10
    )


def test_an_index_for_other_endings_is_read_again(tree, monkeypatch):
    (tree / "cat 2/new.svg").touch()
    settle(tree)
    folder_index.read(tree)
    monkeypatch.setattr(image_files, "SUFFIXES", (*image_files.SUFFIXES, ".svg"))
    assert "cat 2/new.svg" in folder_index.read(tree).images["cat 2"]


def test_another_tree_with_the_same_times_is_seen(tree):
    other = tree.parent / "other"
    shutil.copytree(tree, other)
    (other / "cat 2/1.png").rename(other / "cat 2/3.png")
    settle(other)
    folder_index.read(tree)
    shutil.rmtree(tree)
    other.rename(tree)
    assert folder_index.read(tree).images["cat 2"] == ["cat 2/3.png", "cat 2/9.png", "cat 2/10.png"]


def test_times_that_are_set_back_hide_nothing(tree):
    folder_index.read(tree)
    (tree / "cat 2/new.png").touch()
    settle(tree)
    assert "cat 2/new.png" in folder_index.read(tree).images["cat 2"]


def test_links_to_themselves(tree):
    (tree / "loop").symlink_to("loop")
    (tree / "cat 2/11.png").symlink_to("11.png")
    found = folder_index.read(tree).images
    assert list(found) == ["cat 2", "cat 10"]
    assert found["cat 2"][-1] == "cat 2/11.png"  # not hidden: reading it says what is wrong


def test_a_tree_that_changed_just_now_is_not_kept(tree):
    (tree / "cat 2/new.png").touch()
    assert folder_index.read(tree).note == "" and not kept(tree)


def test_small_trees_and_torn_files_are_read(tree, monkeypatch):
    folder_index.read(tree)
    (file,) = kept(tree)
    whole = file.read_text()
    for torn in (whole[:100], "[]", "{}", json.dumps(json.loads(whole) | {"version": 0})):
        file.write_text(torn)
        assert folder_index.read(tree).images == FOUND
    file.unlink()
    monkeypatch.setattr(folder_index, "LARGE", 6)
    assert images_and_note(tree) == (FOUND, "") and not kept(tree)


def test_a_cache_that_cannot_be_written_is_said(tree):
    (tree.parent / "cache").write_text("a file")
    found, note = images_and_note(tree)
    assert found == FOUND and "could not be kept" in note


def test_names_that_are_not_utf8(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a/1.png").touch()
    open(os.fsencode(tmp_path) + b"/b/caf\xe9.png", "w").close()
    said = message(lambda: folder_index.read(tmp_path))
    assert "not UTF-8" in said and r"b'b/caf\xe9.png'" in said
    said.encode()


def test_a_locale_that_cannot_spell_names_is_told(tmp_path):
    for name in ("кот", "пёс"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").touch()
    code = "import sys; from lift_jax.data.sources import folder_index; folder_index.read(%s)"
    plain = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    done = subprocess.run(
        [sys.executable, "-c", code % f"__import__('pathlib').Path({str(tmp_path)!r})"],
        cwd=ROOT, env=os.environ | plain, capture_output=True, text=True,
    )  # fmt: skip
    assert "Python reads file names as ascii" in done.stderr and "PYTHONUTF8=1" in done.stderr


def test_directories_that_name_one_class(tmp_path):
    for name in ("red_fox", "Red fox", "hare"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").touch()
    said = message(lambda: load("folder", root=tmp_path))
    assert "'red_fox'" in said and "'Red fox'" in said and "same class" in said


def test_a_directory_that_may_not_be_read_says_what_to_do(tmp_path, monkeypatch):
    """`predict` reads directories, too, and has no data.root."""

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(folder_index.os, "scandir", refuse)
    with pytest.raises(UserError, match=r"Permission denied. Make it readable, or move it away.$"):
        given_images.gather([str(tmp_path)])
