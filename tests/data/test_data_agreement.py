"""Tests of the description of a data set that processes compare."""

from dataclasses import replace

import numpy as np
import pytest

from lift_jax.data.agreement import describe
from lift_jax.data.types import ArrayImages, Dataset, FileImages, Split

TEST_IMAGES = "the test images and their labels"


def data_set(root="/a", paths=("c/0.png", "c/1.png", "d/0.png"), labels=(0, 0, 1), names="cd"):
    train = Split(FileImages(root=root, paths=list(paths)), labels)
    pixels = np.zeros((2, 4, 4, 3), np.uint8)
    test = Split(ArrayImages(pixels, "made up", np.arange(2)), (0, 1))
    return Dataset(train, test, tuple(names))


def test_the_folder_of_the_images_does_not_count():
    assert describe(data_set()) == describe(data_set(root="/b"))


@pytest.mark.parametrize(("other", "key"), [
    (data_set(names="ce"), "the class names"),
    (data_set(labels=(0, 1, 1)), "the training images of each class"),
    (data_set(paths=("c/1.png", "c/0.png", "d/0.png")), "the training images and their labels"),
    (data_set(labels=(1, 0, 0)), "the training images and their labels"),
    (replace(data_set(), test=data_set().test.take(np.array([1, 0]))), TEST_IMAGES),
    (replace(data_set(), val=data_set().test), "the validation images and their labels"),
    (replace(data_set(), prepared=256), "the short side of prepared images (data.prepared)"),
    (replace(data_set(), grouped_by=np.array([9, 9])), "the counts that group the classes"),
])  # fmt: skip
def test_a_difference_is_seen(other, key):
    a, b = describe(data_set()), describe(other)
    assert a.keys() == b.keys()
    assert key in [k for k in a if a[k] != b[k]]
