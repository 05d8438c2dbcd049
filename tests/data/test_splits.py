"""Tests of the images that are held out, and of the long tails that are cut."""

import numpy as np
import pytest
from support.small_sets import all_names, draw, load, message

from configs import imagenet_lt, inat, places_lt
from lift_jax.data import datasets, splits
from lift_jax.data.types import ArrayImages, Dataset, Split


def balanced(counts, test=5):
    """Returns images whose pixel is their row, in an order that mixes the classes."""

    def split(counts):
        labels = np.repeat(np.arange(len(counts)), counts)
        labels = labels[np.random.default_rng(0).permutation(len(labels))]
        rows = np.arange(len(labels))
        pixels = np.zeros((len(rows), 1, 1, 3), np.uint8) + rows[:, None, None, None].astype("u1")
        return Split(ArrayImages(pixels, "here", rows), labels)

    return Dataset(split(counts), split([test] * len(counts)), tuple("abcdefgh"[: len(counts)]))


def rows(split):
    return split.images.rows.tolist()


def test_a_share_of_every_class_is_held_out():
    data = balanced([1, 2, 3, 10, 23])
    found = splits.with_validation(data, 0.3, seed=0)
    assert np.bincount(found.val.labels).tolist() == [0, 1, 1, 3, 7]
    assert found.counts.tolist() == [1, 1, 2, 7, 16]
    assert sorted(rows(found.train) + rows(found.val)) == list(range(39))
    for part in (found.train, found.val):  # labels stay with their images
        assert part.labels.tolist() == data.train.labels[rows(part)].tolist()
        assert [int(part.images[i][0, 0, 0]) for i in range(len(part))] == rows(part)
    assert found.test is data.test


def test_validation_follows_the_seed_and_differs_from_the_test_draw():
    data = balanced([40, 40])
    first, again, other = (splits.with_validation(data, 0.5, seed) for seed in (0, 0, 1))
    assert rows(first.val) == rows(again.val) != rows(other.val)
    assert rows(splits.hold_out(data.train, 0.5, 0)[1]) != rows(first.val)


@pytest.mark.parametrize("name", ["digits", "fake", "folder"])
def test_any_source_can_hold_out_validation_images(tmp_path, name):
    for c in range(3):
        for i in range(6):
            draw(tmp_path / f"class {c}" / f"{i}.png")
    whole, found = load(name, root=tmp_path), load(name, root=tmp_path, val_share=0.25)
    assert all_names(found.test) == all_names(whole.test)
    names = all_names(found.train) + all_names(found.val)
    assert sorted(names) == sorted(all_names(whole.train)) and len(found.val)
    place = {n: i for i, n in enumerate(all_names(whole.train))}
    for i, n in enumerate(all_names(found.val)):
        assert found.val.labels[i] == whole.train.labels[place[n]]
    np.testing.assert_array_equal(
        np.asarray(found.val.images[1]),
        np.asarray(whole.train.images[place[all_names(found.val)[1]]]),
    )


def test_a_validation_list_is_read(tmp_path):
    for i in range(3):
        draw(tmp_path / f"{i}.png")
    (tmp_path / "train.txt").write_text("0.png 0\n1.png 1\n")
    (tmp_path / "val.txt").write_text("2.png 1\n")
    lists = dict(root=tmp_path, train_list="train.txt", test_list="val.txt", val_list="val.txt")
    assert load("list", **lists).val.labels.tolist() == [1]
    said = message(lambda: load("list", **lists, val_share=0.1))
    assert "data.val_share" in said and "of its own (1 images)" in said


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_that_is_none(share):
    assert "data.val_share" in message(lambda: load("digits", val_share=share))


def test_single_images_cannot_be_held_out_to_validate_on():
    said = message(lambda: splits.with_validation(balanced([1, 1]), 0.5, 0))
    assert "single training image" in said


# --- long tails ---


def test_a_balanced_set_is_cut_in_the_order_of_its_labels():
    data = balanced([50] * 5)
    found = splits.long_tailed(data, 16.0, seed=0)
    assert found.counts.tolist() == [50, 25, 12, 6, 3]  # 50 / 2^c: 12.5 and 6.25 are rounded
    assert found.train.labels.tolist() == data.train.labels[rows(found.train)].tolist()
    assert len(set(rows(found.train))) == 96 and found.test is data.test
    again, other = (splits.long_tailed(data, 16.0, seed) for seed in (0, 1))
    assert rows(again.train) == rows(found.train) != rows(other.train)


def test_other_sets_are_cut_from_the_largest_class_to_the_smallest():
    found = splits.long_tailed(balanced([6, 64, 40, 9]), 8.0, seed=0)
    # profile 64, 32, 16, 8 for classes b, c, d, a, of which d and a have fewer
    assert found.counts.tolist() == [6, 64, 32, 9]


def test_an_empty_class_stays_empty():
    data = balanced([8, 0, 8])
    assert splits.long_tailed(data, 4.0, seed=0).counts.tolist() == [8, 0, 4]


def test_a_tail_longer_than_the_data():
    said = message(lambda: splits.long_tailed(balanced([10, 10]), 100.0, seed=0))
    assert "data.imbalance is 100" in said and "10 training" in said and "at most 20" in said


def test_the_tail_is_cut_before_images_are_held_out(tmp_path):
    for c in range(2):
        for i in range(20):
            draw(tmp_path / "train" / f"class {c}" / f"{i}.png")
        draw(tmp_path / "test" / f"class {c}" / "t.png")
    found = load("folder", root=tmp_path, imbalance=4.0, val_share=0.2)
    assert found.counts.tolist() == [16, 4]
    assert np.bincount(found.val.labels).tolist() == [4, 1]


# --- the counts of the papers ---


def test_counts_of_the_papers_are_compared(tmp_path):
    same = "The numbers of images and classes are those of the papers."
    assert load("fake", expected="61//31/7").notes == (same,)
    assert load("fake", expected="61/9/31/7", val_share=0.2).notes == (same,)  # before it is cut
    (said,) = load("fake", expected="62//31/8").notes
    assert "Warning" in said and "61 training images, not 62; 7 classes, not 8" in said
    draw(tmp_path / "a.png")
    (tmp_path / "list.txt").write_text("a.png 1\n")
    (tmp_path / "names.txt").write_text("dog\nfox\n")
    lists = {f"{split}_list": "list.txt" for split in ("train", "val", "test")}
    lists |= dict(root=tmp_path, class_names="names.txt")
    (said,) = load("list", **lists, expected="1/20/1/2").notes
    assert "papers: 1 validation images, not 20." in said
    assert "data.expected" in message(lambda: load("fake", expected="61/31/7"))
    genera = datasets.compare(load("fake"), "61//31/8", species=False)
    assert genera == "The numbers of images are those of the papers."


@pytest.mark.parametrize(
    ("config", "counts"),
    [
        (imagenet_lt, "115846/20000/50000/1000"),
        (places_lt, "62500/7300/36500/365"),
        (inat, "437513//24426/8142"),
    ],
)
def test_the_configs_of_the_papers_expect_their_counts(config, counts):
    assert config.get_config().data.expected == counts
    assert config.get_config("debug").data.expected == ""
