"""Tests of images sorted into folders: never overwritten, never outside, the same after a kill."""

import os

import pytest

from lift_jax.errors import UserError
from lift_jax.runs.answers.answering import Prediction
from lift_jax.runs.answers.sorting import Sorter, check_apart

CLASSES = ("red_fox", "../moose", "unknown")


def given(tmp_path, **images):
    """Returns images whose contents are given by the path, with "__" for "/"."""
    paths = []
    for name, content in images.items():
        path = tmp_path / "in" / (name.replace("__", "/") + ".jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        paths.append(path)
    return paths


def tree(folder):
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("link", [False, True])
def test_images_go_to_their_classes(link, tmp_path):
    images = given(tmp_path, a__1="a", b__1="b", c__1="a", d="d", e="e", f="f")
    answers = [Prediction((CLASSES[c],), (1.0,)) for c in (0, 0, 0, 1, 2)]
    answers += [Prediction((CLASSES[0],), (1.0,), unknown=True)]
    expected = {
        "red_fox/1.jpg": "a", "red_fox/1_2.jpg": "b", "red_fox/1_3.jpg": "a",
        "_._moose/d.jpg": "d", "unknown_2/e.jpg": "e", "unknown/f.jpg": "f",
    }  # fmt: skip
    into = tmp_path / "sorted"
    for _ in range(2):  # again, as after a kill, gives the same
        sorter = Sorter(into, CLASSES, unknown=True, link=link)
        for image, one in zip(images, answers, strict=True):
            sorter.sort(image, one)
        assert tree(into) == expected
    assert (into / "red_fox/1.jpg").is_symlink() == link
    assert sorter.sort(images[0], Prediction(error="torn")) is None


@pytest.mark.parametrize("link", [False, True])
def test_nothing_is_overwritten(link, tmp_path):
    (image,) = given(tmp_path, a="new")
    into = tmp_path / "sorted"
    (into / "red_fox" / "a_2.jpg").mkdir(parents=True)
    (into / "red_fox" / "a.jpg").write_text("old")
    os.symlink("/nowhere", into / "red_fox" / "a_3.jpg")
    sorter = Sorter(into, CLASSES, unknown=False, link=link)
    assert sorter.sort(image, Prediction(("red_fox",), (1.0,))) == into / "red_fox" / "a_4.jpg"
    assert tree(into) == {"red_fox/a.jpg": "old", "red_fox/a_4.jpg": "new"}


def test_nothing_goes_outside(tmp_path):
    (image,) = given(tmp_path, a="a")
    into, elsewhere = tmp_path / "sorted", tmp_path / "elsewhere"
    into.mkdir()
    elsewhere.mkdir()
    (into / "red_fox").symlink_to(elsewhere, target_is_directory=True)
    sorter = Sorter(into, CLASSES, unknown=False, link=False)
    with pytest.raises(UserError, match="leads out of"):
        sorter.sort(image, Prediction(("red_fox",), (1.0,)))
    assert not list(elsewhere.iterdir())
    for inside in (tmp_path / "in", tmp_path / "in" / "sorted"):
        with pytest.raises(UserError, match="Give a folder outside it"):
            check_apart(inside, [str(tmp_path / "in"), str(image)])
    check_apart(into, [str(tmp_path / "in"), str(image)])


def test_a_class_called_unknown_keeps_its_name_where_nothing_is_unknown(tmp_path):
    (image,) = given(tmp_path, a="a")
    sorter = Sorter(tmp_path / "sorted", CLASSES, unknown=False, link=False)
    assert sorter.sort(image, Prediction(("unknown",), (1.0,))).parent.name == "unknown"
