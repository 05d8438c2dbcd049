"""Tests of data sets that TFDS has prepared, read from array_record without TensorFlow."""

import io
import json
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from support.small_sets import load, message, pixels

from lift_jax.data.sources import tfds as tfds_module
from lift_jax.storage.cache import cache_folder

NAMES = ["fox", "hare", "owl"]


def png(value):
    """Returns an image whose every pixel is its number, so that images can be told apart."""
    stream = io.BytesIO()
    Image.new("RGB", (9, 7), (value, 100, 200)).save(stream, "PNG")
    return stream.getvalue()


def write(root, name="pets", version="1.0.0", names=NAMES, **splits):
    """Prepares a data set with TFDS's own writer; splits are lists of labels.

    The images are handed over encoded, which needs no TensorFlow.
    """
    home = root / name / version
    home.mkdir(parents=True)
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "file_name": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=names),
        }
    )
    identity = tfds.core.dataset_info.DatasetIdentity(
        name=name, version=tfds.core.Version(version), data_dir=str(home), module_name="tests"
    )
    info = tfds.core.DatasetInfo(builder=identity, features=features)
    writer = tfds.core.SequentialWriter(info, max_examples_per_shard=4, file_format="array_record")
    writer.initialize_splits(list(splits))
    for split, labels in splits.items():
        examples = [
            {"image": io.BytesIO(png(i)), "file_name": f"{i}.png", "label": label}
            for i, label in enumerate(labels)
        ]
        writer.add_examples({split: examples})
    writer.close_all()
    return home


TRAIN = [0, 0, 1, 2, 0, 1, 0, 2, 2, 0]  # three shards


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    write(root, train=TRAIN, validation=[1, 2], test=[2, 1, 0])
    write(root, version="1.2.0", train=[0, 1], test=[2])
    write(root, version="1.10.0", train=[0, 1, 1], validation=[2])
    return root


def firsts(split):
    return [int(np.asarray(image)[0, 0, 0]) for image in pixels(split)]


def test_images_and_labels_are_those_that_were_written(root):
    data = load("tfds", root=root, tfds="pets:1.0.0")
    assert data.class_names == tuple(NAMES)
    assert data.train.labels.tolist() == TRAIN and firsts(data.train) == list(range(10))
    assert data.test.labels.tolist() == [2, 1, 0] and data.val.labels.tolist() == [1, 2]
    image = np.asarray(data.train.images[3])
    assert image.shape == (7, 9, 3) and image[6, 8].tolist() == [3, 100, 200]
    assert data.train.images.content(3) == png(3)
    assert "pets/1.0.0, train, image 3" in data.train.images.name(3)


def test_labels_are_read_once(root, monkeypatch):
    first = load("tfds", root=root, tfds="pets:1.0.0")
    monkeypatch.setattr(tfds_module, "_source", lambda *_: [{"label": 0}])  # no split is made of it
    again = load("tfds", root=root, tfds="pets:1.0.0")
    assert again.train.labels.tolist() == first.train.labels.tolist()


def test_kept_labels_that_are_damaged_are_read_again(root):
    first = load("tfds", root=root, tfds="pets:1.0.0")
    wrong = [np.zeros(len(TRAIN), np.float32), np.zeros(1, np.int32), np.array({"a": 1})]
    for array in (None, *wrong):
        for file in (cache_folder() / "labels").iterdir():
            file.write_bytes(b"")
            if array is not None:
                np.save(file, array)
        again = load("tfds", root=root, tfds="pets:1.0.0")
        assert again.train.labels.tolist() == first.train.labels.tolist()


def test_labels_of_shards_that_are_named_otherwise(tmp_path):
    for name, labels in (("first", [0, 1, 2]), ("second", [2, 2, 0])):
        home = write(tmp_path, name, train=labels, test=[1])
        info = json.loads((home / "dataset_info.json").read_text())
        for split in info["splits"]:
            split["filepathTemplate"] = "{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}"
        (home / "dataset_info.json").write_text(json.dumps(info))
        for shard in home.glob(f"{name}-*"):
            shard.rename(home / shard.name.removeprefix(f"{name}-"))
        assert load("tfds", root=tmp_path, tfds=name).train.labels.tolist() == labels


def test_the_highest_version_and_a_validation_split_alone(root):
    data = load("tfds", root=root, tfds="pets")
    assert data.train.labels.tolist() == [0, 1, 1]  # 1.10.0 comes after 1.2.0
    assert data.test.labels.tolist() == [2] and data.val is None


def test_a_tail_is_cut_and_images_held_out(root):
    whole = load("tfds", root=root, tfds="pets:1.10.0", imbalance=2.0)
    assert whole.counts.tolist() == [1, 2, 0]
    data = load("tfds", root=root, tfds="pets:1.10.0", val_share=0.5)
    assert data.counts.tolist() == [1, 1, 0] and data.val.labels.tolist() == [1]
    assert sorted(firsts(data.train) + firsts(data.val)) == [0, 1, 2]


def test_images_travel_to_other_processes(root):
    split = load("tfds", root=root, tfds="pets:1.0.0").train
    rows = np.array([7, 2])
    copy = pickle.loads(pickle.dumps(split.take(rows)))
    assert firsts(copy) == [7, 2] and copy.labels.tolist() == [2, 1]


def test_names_from_a_file(root, tmp_path):
    (tmp_path / "names.txt").write_text("red fox\nhare\nbarn owl\n")
    options = dict(root=root, tfds="pets:1.0.0", class_names=tmp_path / "names.txt")
    assert load("tfds", **options).class_names == ("red fox", "hare", "barn owl")
    (tmp_path / "names.txt").write_text("red fox\nhare\n")
    assert "names 2 classes" in message(lambda: load("tfds", **options))


@pytest.mark.slow
def test_tensorflow_is_not_needed(root):
    code = f"""
import sys
sys.path.insert(0, "tests")
from support.small_sets import load, pixels
data = load("tfds", root={str(root)!r}, tfds="pets:1.0.0")
assert len(pixels(data.train)) == 10
print([name for name in sys.modules if name.split(".")[0] in ("tensorflow", "torch")])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


# --- what may be wrong ---


def test_what_is_not_there(root):
    said = message(lambda: load("tfds", root=root, tfds="pet"))
    assert "'pet'" in said and "Did you mean 'pets'" in said and "array_record" in said
    said = message(lambda: load("tfds", root=root, tfds="pets:2.0.0"))
    assert "version 2.0.0" in said and "1.0.0, 1.10.0, 1.2.0" in said
    assert "pets/large does not hold" in message(lambda: load("tfds", root=root, tfds="pets/large"))
    for name in ("", "../pets", "pets:1"):
        assert "data.tfds is" in message(lambda name=name: load("tfds", root=root, tfds=name))


def test_other_formats_and_splits(root, tmp_path):
    home = tmp_path / "pets/1.0.0"
    shutil.copytree(root / "pets/1.0.0", home)
    info = json.loads((home / "dataset_info.json").read_text())
    (home / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
    said = message(lambda: load("tfds", root=tmp_path, tfds="pets"))
    assert "prepared as tfrecord" in said and "--file_format=array_record" in said
    write(tmp_path, "alone", train=[0, 1])
    said = message(lambda: load("tfds", root=tmp_path, tfds="alone"))
    assert "has images in 'train': expected" in said
    write(tmp_path, "tests", test=[0, 1])
    assert "has images in 'test'" in message(lambda: load("tfds", root=tmp_path, tfds="tests"))


def test_a_test_split_without_labels(tmp_path):
    write(tmp_path, train=[0, 1], validation=[1, 0, 0], test=[-1, -1])
    data = load("tfds", root=tmp_path, tfds="pets")
    assert data.test.labels.tolist() == [1, 0, 0] and data.val is None
    assert "no labels" in data.notes[0]
    write(tmp_path, "bare", train=[0, 1], test=[-1])
    said = message(lambda: load("tfds", root=tmp_path, tfds="bare"))
    assert "test, image 0" in said and "-1 is out of range" in said


def test_damage(tmp_path):
    home = write(tmp_path, train=[0, 1, 1, 0, 1], test=[0])
    for shard in home.glob("*-train*"):
        body = bytearray(shard.read_bytes())
        body[: len(body)] = bytes(len(body))
        shard.write_bytes(body)
    assert "Cannot read" in message(lambda: load("tfds", root=tmp_path, tfds="pets"))
    for shard in home.glob("*-train*"):
        shard.unlink()
    assert "Cannot read" in message(lambda: load("tfds", root=tmp_path, tfds="pets"))
    (home / "features.json").write_text("{")
    other = tmp_path / "copy"
    shutil.copytree(tmp_path / "pets", other / "pets")
    assert "Cannot read" in message(lambda: load("tfds", root=other, tfds="pets"))
