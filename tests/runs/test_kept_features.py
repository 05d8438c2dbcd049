"""Tests of the features that a run keeps, before and after tuning."""

import shutil
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from support.paths import GOLDEN
from support.runs import train_and_test
from support.small_sets import draw_noise

from configs import demo
from lift_jax import Predictor
from lift_jax.data import datasets
from lift_jax.data.images.views import TestTransform
from lift_jax.data.types import FileImages
from lift_jax.errors import UserError
from lift_jax.evaluation import forward
from lift_jax.models.heads import l2_normalise
from lift_jax.runs.kept import features, kept_file
from lift_jax.settings import parse
from lift_jax.weights.load import load_backbone


def config_of(**changes):
    config = demo.get_config("debug")
    config.train.epochs, config.test.tte = 1, False
    config.update_from_flattened_dict({"train.lr": 0.5} | changes)
    return config


@pytest.fixture(scope="module")
def data():
    return datasets.load(parse(config_of()).data, 0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    train_and_test(config_of(), workdir)
    return workdir


@pytest.fixture(scope="module")
def untuned(tmp_path_factory):
    """Returns the features of a run that tunes the classifier alone."""
    workdir = tmp_path_factory.mktemp("untuned")
    train_and_test(config_of(**{"tuner.name": "none"}), workdir)
    return features.read(workdir)


def images_of(split):
    return [np.asarray(split.images[i]) for i in range(len(split))]


def close(found, expected):
    """Returns True if features are equal to what float16 can hold."""
    return np.abs(found.astype(np.float32) - expected.astype(np.float32)).max() < 1e-3


def test_they_are_what_the_head_takes(run, data):
    found, predictor = features.read(run), Predictor(run)
    assert found.tuned
    assert found.names[:2] == [data.train.images.name(0), data.train.images.name(1)]
    assert found.rows.tolist() == list(range(len(data.train)))
    assert np.array_equal(found.labels, data.train.labels)
    assert np.array_equal(found.test_labels, data.test.labels)
    assert close(found.after, predictor.features(images_of(data.train)))
    assert close(found.test_after, predictor.features(images_of(data.test)))
    assert not close(found.test_before, found.test_after)


def test_a_classifier_alone_changes_no_feature(untuned):
    assert not untuned.tuned and untuned.before is untuned.after
    assert untuned.test_before is untuned.test_after


@pytest.mark.slow
def test_before_is_the_backbone_as_it_was_loaded(untuned, tmp_path, data):
    """None of these tuners starts as no change; aft trains leaves of the backbone."""
    changes = {"tuner.name": "ssf+vpt_deep+aft", "head.kind": "linear"}
    train_and_test(config_of(**changes), tmp_path)
    found = features.read(tmp_path)
    assert np.array_equal(found.before, untuned.after)
    assert np.array_equal(found.test_before, untuned.test_after)
    taken = Predictor(tmp_path).features(images_of(data.test))
    assert close(found.test_after, taken / np.linalg.norm(taken, axis=1, keepdims=True))


@pytest.mark.slow
def test_before_is_in_the_space_of_texts(tmp_path, data):
    train_and_test(config_of(**{"tuner.name": "clip_adapter", "head.kind": "text"}), tmp_path)
    found = features.read(tmp_path)
    train_and_test(config_of(), tmp_path / "zero", "zero_shot")
    zero_shot = features.read(tmp_path / "zero")
    assert found.tuned and not zero_shot.tuned
    assert close(zero_shot.test_after, found.test_before)
    assert close(found.test_after, Predictor(tmp_path).features(images_of(data.test)))


@pytest.mark.slow
def test_a_tower_without_texts_that_is_tuned_whole(tmp_path, data):
    name = str(GOLDEN / "hf_vit")
    changes = {"model.backbone": name, "tuner.name": "full", "tuner.dim": 0}
    config = config_of(**changes)
    train_and_test(config, tmp_path)
    found, backbone = features.read(tmp_path), load_backbone(name)
    view = TestTransform(backbone.visual.config.resolution, config.test.interpolation)
    images = jnp.stack([view(image) for image in images_of(data.test)])
    expected = l2_normalise(forward.feature(backbone.visual, images))
    assert close(found.test_before, np.asarray(expected))
    assert not close(found.before, found.after)


@pytest.mark.parametrize(("paths", "changed"), [
    (("visual/blocks/0/q/kernel",), True),
    (("head/image_adapter/down",), True),
    (("head/image_proj",), True),
    (("head/weight", "head/bias"), False),
    (("head/text/blocks/0/q/kernel", "head/context"), False),
])  # fmt: skip
def test_which_leaves_change_a_feature(paths, changed, monkeypatch):
    monkeypatch.setattr(features.Candidate, "of", lambda *classifier: classifier)
    setup = SimpleNamespace(zero_shot=None, untuned=("graph", {}), graph="tuned", frozen={})
    state = SimpleNamespace(weights=dict.fromkeys(paths))
    assert set(features.classifiers(setup, state)) == (
        {"after", "before"} if changed else {"after"}
    )


def test_testing_again_gives_the_same_bytes(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / features.NAME).unlink()
    assert features.read(copy) is None
    train_and_test(config_of(), copy, "evaluate")
    assert (copy / features.NAME).read_bytes() == (run / features.NAME).read_bytes()


def test_a_damaged_file_is_a_line(run, tmp_path):
    content = (run / features.NAME).read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    longer = (2**40).to_bytes(8, "little") + content[8:]
    for damaged in (flipped, content[:middle], b"", b"x" * 100, longer):
        (tmp_path / features.NAME).write_bytes(damaged)
        with pytest.raises(UserError, match="is not what lift_jax wrote.*--mode=evaluate"):
            features.read(tmp_path)
    kept_file.write(tmp_path / features.NAME, {}, {"version": "0"})
    with pytest.raises(UserError, match="another version"):
        features.read(tmp_path)


@pytest.mark.parametrize(("counts", "most", "kept"), [
    ([3, 2], 5, [3, 2]),
    ([3, 2], 4, [2, 2]),
    ([100, 5, 1], 20, [14, 5, 1]),
    ([10, 10, 3], 16, [6, 6, 3]),  # 7 each would be 17
    ([4, 0, 4], 3, [1, 0, 1]),
])  # fmt: skip
def test_small_classes_are_kept_whole(counts, most, kept):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    rows = features.choose(labels, 1, most)
    assert np.all(np.diff(rows) > 0)
    assert np.bincount(labels[rows], minlength=len(counts)).tolist() == kept
    assert np.array_equal(rows, features.choose(labels, 1, most))
    if sum(kept) < sum(counts):
        assert any(not np.array_equal(rows, features.choose(labels, s, most)) for s in range(2, 9))


def test_images_are_named_by_their_paths():
    images = FileImages(root="/data/photos", paths=["cat/1.jpg"])
    assert features.name_of(images, 0) == "cat/1.jpg"
    digits = datasets.load(parse(demo.get_config()).data, 0).train.images
    assert features.name_of(digits, 3) == f"image {digits.rows[3]}"


def test_an_unreadable_image_is_passed_over(tmp_path, capsys):
    root = tmp_path / "data"
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            draw_noise(root / split / name, 4, size=(20, 20))
    config = config_of(**{"data.name": "folder", "data.root": str(root)})
    train_and_test(config, tmp_path / "run")
    (root / "train" / "cat" / "2.png").write_bytes(b"no image")
    train_and_test(config, tmp_path / "run", "evaluate")
    found = features.read(tmp_path / "run")
    assert found.rows.tolist() == [0, 1, 3, 4, 5, 6, 7]
    assert found.names[:3] == ["cat/0.png", "cat/1.png", "cat/3.png"]
    assert found.test_rows.tolist() == list(range(8))
    said = " ".join(capsys.readouterr().out.split())
    assert "training images that cannot be read, and so have no features: 1." in said
