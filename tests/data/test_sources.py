"""Tests of data sets: their content, the images that a seed draws, and messages of mistakes."""

import os
import pickle
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from support.small_sets import all_names, config, draw, load, message, pixels

from lift_jax.data import datasets, types
from lift_jax.data.sources.cifar import subset

# --- digits ---


@pytest.fixture(scope="module")
def digits():
    return load("digits", imbalance=50.0)


def test_digits_are_long_tailed_with_a_balanced_test(digits):
    assert digits.counts.tolist() == [140, 91, 59, 38, 25, 16, 10, 7, 4, 3]
    assert digits.counts.dtype == np.int64 and digits.train.labels.dtype == np.int32
    assert np.bincount(digits.test.labels).tolist() == [30] * 10
    assert digits.class_names[0] == "zero" and digits.class_names[9] == "nine"
    assert load("digits").counts.tolist() == [140] * 10


def test_digits_are_bright_strokes_on_black_in_colour(digits):
    image = digits.train.images[0]
    assert image.shape == (32, 32, 3) and image.dtype == np.uint8
    assert np.ptp(image, axis=2).max() == 0
    assert image[:, 0].max() < 16 and image.max() > 200


def test_no_digit_is_both_trained_and_tested(digits):
    names = all_names(digits.train) + all_names(digits.test)
    assert len(set(names)) == len(names) == 393 + 300


def test_digits_are_drawn_by_the_seed(digits):
    again, other = load("digits", imbalance=50.0), load("digits", seed=1, imbalance=50.0)
    assert all_names(again.train) == all_names(digits.train)
    np.testing.assert_array_equal(pixels(again.test), pixels(digits.test))
    assert all_names(other.test) != all_names(digits.test)
    assert other.counts.tolist() == digits.counts.tolist()


# --- CIFAR-100 ---


def records(labels, seed=0):
    rng = np.random.default_rng(seed)
    body = rng.integers(0, 256, (len(labels), 3074), np.uint8)
    body[:, 1] = labels
    return body


def cifar(folder, train, test=None, classes=100):
    """Writes an archive in CIFAR-100's layout below `folder`."""
    home = folder / "cifar-100-binary"
    home.mkdir(parents=True)
    (home / "train.bin").write_bytes(train.tobytes())
    test = records(np.arange(classes), seed=1) if test is None else test
    (home / "test.bin").write_bytes(test.tobytes())
    names = "".join(f"name_{c}\n" for c in range(classes))
    (home / "fine_label_names.txt").write_text(names + "\n")
    return home


def packed(home):
    archive = home.parent / "cifar-100-binary.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(home, arcname="cifar-100-binary")
    return archive


@pytest.mark.parametrize("ratio", [10, 50, 100])
@pytest.mark.parametrize("each", [20, 50])
def test_cifar_subsets_are_those_of_the_papers(golden, ratio, each):
    stored = golden("cifar_lt")
    labels = stored[f"labels_{each}"]
    rows = subset(labels, float(ratio))
    assert rows.tolist() == stored[f"indices_{each}_IR{ratio}"].tolist()


@pytest.mark.parametrize(("ratio", "total"), [(10, 19_573), (50, 12_608), (100, 10_847)])
def test_full_size_cifar_counts(golden, ratio, total):
    labels = np.repeat(np.arange(100), 500)
    counts = np.bincount(labels[subset(labels, float(ratio))])
    assert counts.tolist() == golden("cifar_lt")[f"counts_IR{ratio}"].tolist()
    assert counts.sum() == total


def test_cifar_is_read_from_every_place_it_may_lie(golden, tmp_path):
    stored = golden("cifar_lt")
    home = cifar(tmp_path, records(stored["labels_20"]))
    places = [home, tmp_path, packed(home)]
    expected = stored["indices_20_IR100"]
    for place in places:
        data = load("cifar100", root=place, imbalance=100.0)
        assert data.train.images.rows.tolist() == expected.tolist()
        assert data.train.labels.tolist() == stored["labels_20"][expected].tolist()
        assert data.class_names[:2] == ("name_0", "name_1") and len(data.class_names) == 100
        assert data.test.labels.tolist() == list(range(100))
    assert str(expected[3]) in data.train.images.name(3)


def test_an_archive_alone_is_found_in_its_directory(tmp_path):
    archive = packed(cifar(tmp_path / "work", records(np.arange(100))))
    other = tmp_path / "other"
    other.mkdir()
    archive.rename(other / archive.name)
    assert len(load("cifar100", root=other).train) == 100


def test_cifar_pixels_are_turned_upright(tmp_path):
    body = records(np.arange(100))
    cifar(tmp_path, body)
    data = load("cifar100", root=tmp_path)
    image = data.train.images[7]
    plane = 32 * 32
    for channel in range(3):
        start = 2 + channel * plane
        flat = body[7, start : start + plane]
        assert image[:, :, channel].reshape(-1).tolist() == flat.tolist()


def test_damaged_cifar_says_which_file_and_what_to_do(tmp_path):
    home = cifar(tmp_path / "a", records(np.arange(100)))
    archive = packed(home)
    archive.write_bytes(archive.read_bytes()[:5000])
    said = message(lambda: load("cifar100", root=archive))
    assert str(archive) in said and "cifar-100-binary" in said
    whole = (home / "train.bin").read_bytes()
    (home / "train.bin").write_bytes(whole[:-1])
    said = message(lambda: load("cifar100", root=home))
    assert "train.bin" in said and "307,399" in said and "3,074" in said
    (home / "train.bin").write_bytes(whole)
    (home / "fine_label_names.txt").write_text("apple\nbear\n")
    assert "2 class names" in message(lambda: load("cifar100", root=home))
    (home / "test.bin").unlink()
    assert str(home) in message(lambda: load("cifar100", root=home))


def test_an_archive_of_something_else_is_named(tmp_path):
    (tmp_path / "readme.txt").write_text("hello")
    with tarfile.open(tmp_path / "cifar-100-python.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "readme.txt", arcname="readme.txt")
    said = message(lambda: load("cifar100", root=tmp_path / "cifar-100-python.tar.gz"))
    assert "lacks train.bin, test.bin, fine_label_names.txt" in said and "binary version" in said


# --- folder ---


@pytest.fixture
def pets(tmp_path):
    """Makes two splits of three classes whose natural order is not alphabetical."""
    for name, many in (("cat 10", 3), ("cat 2", 2), ("Dog", 1)):
        for i in range(many):
            draw(tmp_path / "train" / name / f"{i}.png", (i, len(name), 0))
    draw(tmp_path / "val" / "cat 2" / "deep" / "x.JPEG")
    draw(tmp_path / "val" / "Dog" / "y.png")
    return tmp_path


def test_folder_with_two_splits(pets):
    data = load("folder", root=pets)
    assert data.class_names == ("cat 2", "cat 10", "Dog")
    assert data.counts.tolist() == [2, 3, 1]
    assert data.test.labels.tolist() == [0, 2]
    assert data.test.images.name(0) == str(pets / "val" / "cat 2" / "deep" / "x.JPEG")
    assert np.asarray(data.train.images[3])[0, 0].tolist() == [1, 6, 0]


def test_val_is_to_choose_settings_on_where_there_is_a_test(pets):
    draw(pets / "test" / "cat 10" / "z.png")
    data = load("folder", root=pets)
    assert data.test.labels.tolist() == [1]
    assert data.val.labels.tolist() == [0, 2]
    assert data.val.images.name(1) == str(pets / "val" / "Dog" / "y.png")


def test_names_of_folders_from_a_file(pets):
    (pets / "names.txt").write_text("small cat\nbig cat\nhound\n")
    data = load("folder", root=pets, class_names="names.txt")
    assert data.class_names == ("small cat", "big cat", "hound")  # folders "cat 2", "cat 10", "Dog"
    assert data.counts.tolist() == [2, 3, 1] and data.test.labels.tolist() == [0, 2]
    assert not any("Not used" in note for note in data.notes)
    (pets / "names.txt").write_text("small cat\nbig cat\n")
    said = message(lambda: load("folder", root=pets, class_names="names.txt"))
    assert "2 names" in said and "3 class directories, from 'cat 2' to 'Dog'" in said


def test_hidden_and_foreign_files_are_passed_over(pets):
    (pets / "train" / ".git").mkdir()
    (pets / "train" / "__MACOSX").mkdir()
    (pets / "train" / "Dog" / "._0.png").write_bytes(b"resource fork")
    (pets / "train" / "Dog" / "notes.txt").write_text("no image")
    draw(pets / "train" / "Dog" / ".cache" / "0.png")
    assert load("folder", root=pets).counts.tolist() == [2, 3, 1]


def flat(folder, counts):
    for c, many in enumerate(counts):
        for i in range(many):
            draw(folder / f"class_{c}" / f"{i}.png")
    return folder


@pytest.mark.parametrize("below", ["", "train"])
def test_one_division_is_split_class_by_class(tmp_path, below):
    flat(tmp_path / below, (1, 2, 3, 10, 23))
    data = load("folder", root=tmp_path, test_share=0.3)
    assert np.bincount(data.test.labels).tolist() == [0, 1, 1, 3, 7]
    assert data.counts.tolist() == [1, 1, 2, 7, 16]
    names = all_names(data.train) + all_names(data.test)
    assert len(set(names)) == len(names) == 39
    for split in (data.train, data.test):
        folders = [os.path.basename(os.path.dirname(name)) for name in all_names(split)]
        assert folders == [data.class_names[label] for label in split.labels]


def test_the_held_out_share_follows_the_seed(tmp_path):
    flat(tmp_path, (11, 13))
    first, again, other = (load("folder", seed=s, root=tmp_path) for s in (0, 0, 1))
    assert all_names(first.test) == all_names(again.test)
    assert all_names(first.test) != all_names(other.test)


def test_mistakes_in_a_folder_name_it_and_the_remedy(pets, tmp_path):
    nowhere = tmp_path / "nowhere"
    assert str(nowhere) in message(lambda: load("folder", root=nowhere))
    assert "data.root is empty" in message(lambda: load("folder"))

    draw(pets / "val" / "Bird" / "b.png")
    said = message(lambda: load("folder", root=pets))
    assert str(pets / "val") in said and "Bird" in said and str(pets / "train") in said


@pytest.mark.parametrize("split", ["train", "test", "val"])
def test_class_folders_without_images_are_named_and_skipped(pets, split):
    draw(pets / "test" / "Dog" / "1.png")
    whole = load("folder", root=pets)
    for name in ("Ant", "Fish"):
        (pets / split / name).mkdir()
    (pets / split / "Fish" / "notes.txt").write_text("no image")
    found = load("folder", root=pets)
    assert found.class_names == whole.class_names
    assert found.train.labels.tolist() == whole.train.labels.tolist()
    (note,) = (note for note in found.notes if "Skipped" in note)
    assert f"Skipped 2 class folders without images: {pets / split / 'Ant'}" in note
    assert str(pets / split / "Fish") in note


def test_folders_without_any_image_name_one_and_the_remedy(tmp_path):
    for name in ("Cat", "Fish"):
        (tmp_path / name).mkdir()
    said = message(lambda: load("folder", root=tmp_path))
    assert str(tmp_path / "Cat") in said and "holds no images" in said and "Add images" in said


def test_a_folder_that_is_not_one_directory_a_class(tmp_path):
    draw(tmp_path / "loose" / "1.png")
    draw(tmp_path / "loose" / "2.png")
    said = message(lambda: load("folder", root=tmp_path / "loose"))
    assert "no class directories" in said and "2 images" in said
    said = message(lambda: load("folder", root=tmp_path))  # everything in one class
    assert "one class directory, 'loose'" in said
    draw(tmp_path / "half" / "test" / "cat" / "1.png")
    assert "Name that folder 'train'" in message(lambda: load("folder", root=tmp_path / "half"))


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0, float("nan")])
def test_a_share_that_holds_nothing_out(tmp_path, share):
    flat(tmp_path, (2, 2))
    assert "data.test_share" in message(lambda: load("folder", root=tmp_path, test_share=share))


def test_single_images_cannot_be_split(tmp_path):
    flat(tmp_path, (1, 1))
    assert "single image" in message(lambda: load("folder", root=tmp_path))


# --- list ---


def lists(root, train="a b.png 0\nsub/c.png 1\n", test="sub/c.png 1\n", names=None):
    draw(root / "a b.png", (1, 2, 3))
    draw(root / "sub" / "c.png", (4, 5, 6))
    (root / "train.txt").write_bytes(train if isinstance(train, bytes) else train.encode())
    (root / "test.txt").write_bytes(test if isinstance(test, bytes) else test.encode())
    options = {}
    if names is not None:
        (root / "names.txt").write_text(names)
        options["class_names"] = "names.txt"
    return config("list", root=root, train_list="train.txt", test_list="test.txt", **options)


def test_list_files(tmp_path):
    data = datasets.load(lists(tmp_path, names="tabby cat\nsea horse\n"), 0)
    assert data.class_names == ("tabby cat", "sea horse")
    assert data.train.labels.tolist() == [0, 1]
    assert data.train.images.name(0) == str(tmp_path / "a b.png")
    assert np.asarray(data.train.images[0])[0, 0].tolist() == [1, 2, 3]
    assert data.test.labels.tolist() == [1]


def test_lists_from_windows_with_blank_lines(tmp_path):
    text = b"\xef\xbb\xbfa b.png 0\r\n\r\n  sub/c.png\t1  \r\n\r\n"
    data = datasets.load(lists(tmp_path, train=text), 0)
    assert data.train.labels.tolist() == [0, 1]
    assert data.train.images.name(1) == str(tmp_path / "sub/c.png")
    assert data.class_names == ("class 0", "class 1")


def test_absolute_paths_and_lists_elsewhere(tmp_path):
    made = lists(tmp_path / "root")
    (tmp_path / "mine.txt").write_text(f"{tmp_path / 'root' / 'a b.png'} 0\nsub/c.png 1")
    made = replace(made, train_list=str(tmp_path / "mine.txt"))
    data = datasets.load(made, 0)
    assert [np.asarray(image)[0, 0, 0] for image in pixels(data.train)] == [1, 4]


def test_a_named_class_may_have_no_images(tmp_path):
    data = datasets.load(lists(tmp_path, names="one\ntwo\nthree"), 0)
    assert data.counts.tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (dict(train="a b.png 0\n\nsub/c.png\n"), ["train.txt, line 3", "path label", "sub/c.png"]),
        (dict(train="a b.png,0\n"), ["train.txt, line 1", "path label"]),
        (dict(train="a b.png -1\n"), ["line 1", "'a b.png -1'"]),
        (dict(train="a b.png 1.0\n"), ["line 1", "'a b.png 1.0'"]),
        (dict(train="a b.png \u0663\n"), ["line 1"]),
        (dict(train="a b.png 99999999999\n"), ["line 1", "too large"]),
        (dict(train="\n \n"), ["train.txt", "empty"]),
        (dict(train=b"caf\xe9.png 0\n"), ["train.txt", "UTF-8"]),
        (dict(train="b.png 0\nsub/c.png 1\n"), ["line 1", "b.png", "data.root"]),
        (
            dict(train="a b.png 1\nsub/c.png 2\n"),
            ["train.txt", "no image of class 0", "count from 0"],
        ),
        (dict(train="a b.png 0\n"), ["two classes"]),
        (dict(test="sub/c.png 0\n\nsub/c.png 2\n"), ["test.txt, line 3", "label 2", "stop at 1"]),
        (dict(names="one\ntwo", test="sub/c.png 2\n"), ["test.txt, line 1", "names 2 classes"]),
        (dict(names="one\n\ntwo\n"), ["names.txt", "blank line"]),
        (dict(names=""), ["names.txt", "empty"]),
    ],
)
def test_mistakes_in_lists_name_the_line(tmp_path, made, words):
    data = lists(tmp_path, **made)
    said = message(lambda: datasets.load(data, 0))
    assert [word for word in words if word not in said] == []


def test_missing_lists_and_roots(tmp_path):
    data = lists(tmp_path)
    data = replace(data, test_list="")
    assert "data.test_list is empty" in message(lambda: datasets.load(data, 0))
    data = replace(data, test_list="tset.txt")
    said = message(lambda: datasets.load(data, 0))
    assert str(tmp_path / "tset.txt") in said and "data.test_list" in said
    data = replace(data, root=str(tmp_path / "gone"))
    assert str(tmp_path / "gone") in message(lambda: datasets.load(data, 0))


# --- made-up images and the catalogue ---


def test_made_up_images_repeat_and_vary():
    data, again, other = load("fake"), load("fake"), load("fake", seed=1)
    assert (len(data.train), len(data.test), len(data.class_names)) == (61, 31, 7)
    assert data.counts.tolist() == [25, 14, 9, 6, 4, 2, 1]
    assert len({image.shape for image in pixels(data.train)}) > 5
    for one, two in zip(pixels(data.test), pixels(again.test), strict=True):
        np.testing.assert_array_equal(one, two)
    assert pixels(data.train)[0].tolist() != pixels(other.train)[0].tolist()
    assert data.class_names[2] == "blue"
    np.testing.assert_allclose(pixels(data.test)[2].mean((0, 1)), (40, 70, 210), atol=10)


def test_mistakes_in_the_catalogue():
    said = message(lambda: load("digit"))
    assert "'digit'" in said and "Did you mean 'digits'" in said and "cifar100" in said
    assert "data.imbalance" in message(lambda: load("digits", imbalance=0.5))
    said = message(lambda: load("folder", root="here", train_list="train.txt"))
    assert "data.train_list is 'train.txt'" in said and "list, table, inaturalist" in said
    assert "belongs to inaturalist" in message(lambda: load("digits", level="genus"))
    said = message(lambda: load("digits", class_names="species"))  # the default of another key
    assert "data.class_names is 'species'" in said
    assert len(load("fake", train_list="train2018.json").train) == 61  # as in a debug run
    assert "data.imbalance" in message(lambda: load("digits", imbalance=float("nan")))


@pytest.mark.parametrize("name", ["digits", "fake", "folder"])
def test_splits_travel_to_other_processes(tmp_path, name):
    flat(tmp_path, (3, 3))
    split = load(name, root=tmp_path).train
    copy = pickle.loads(pickle.dumps(split))
    assert all_names(copy) == all_names(split)
    np.testing.assert_array_equal(np.asarray(copy.images[2]), np.asarray(split.images[2]))
    assert copy.labels.tolist() == split.labels.tolist()


def test_images_and_labels_must_agree_in_number():
    with pytest.raises(ValueError, match="3 images but 2 labels"):
        types.Split(types.FileImages("", ["a", "b", "c"]), np.zeros(2))
