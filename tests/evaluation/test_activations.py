"""Tests of kept activations: results do not change with them, and when they are not used."""

import importlib
import json
import os
import time
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from rich.console import Console
from support.runs import train_and_test

from lift_jax.data.fingerprint import fingerprint_images
from lift_jax.data.images.decode import Decoding
from lift_jax.data.images.views import TestTransform
from lift_jax.data.sources.tfds import TfdsImages
from lift_jax.data.types import ArrayImages, FileImages, Split
from lift_jax.evaluation import forward, stream
from lift_jax.evaluation.activations import cache as cache_module
from lift_jax.evaluation.activations.cache import Cache
from lift_jax.evaluation.activations.reading import ActivationRows, IdentityView
from lift_jax.evaluation.activations.tower_outputs import tower_outputs
from lift_jax.models.precision import Precision
from lift_jax.models.resnet import ResNet, ResNetConfig
from lift_jax.models.vit.config import VisionConfig
from lift_jax.models.vit.tower import VisionTransformer
from lift_jax.parallel import mesh
from lift_jax.runs import results
from lift_jax.runs.kept import examples
from lift_jax.settings.groups.tuner import TunerSettings
from lift_jax.storage.formats import row_file
from lift_jax.training import loop
from lift_jax.tuners import attach

SIZES = {"resolution": 8, "patch": 4, "width": 8, "layers": 3, "heads": 2, "mlp": 16}
VIEW = TestTransform(8)
RESNET = ResNetConfig(16, 32, 4, (4, 8), (1, 1))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Returns the empty folder in which rows are kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "lift_jax" / "features"


@pytest.fixture(scope="module")
def tower():
    return VisionTransformer(VisionConfig(**SIZES), rngs=nnx.Rngs(0))


# -- a tower in two parts


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [{}, {"rope": 100.0, "registers": 2}, {"pool": "map"}])
def test_the_parts_are_the_whole(sizes):
    tower = VisionTransformer(VisionConfig(**SIZES, **sizes), rngs=nnx.Rngs(0))
    attach.attach(
        tower, ("adaptformer", "vpt_deep"), 5, TunerSettings(partial=1, prompts=2), rngs=nnx.Rngs(1)
    )
    images = jax.random.normal(jax.random.key(2), (3, 8, 8, 3))
    whole = tower(images)
    for k in range(3):
        rows = tower.lower(images, k)
        assert rows.shape == (3, 4 + (tower.cls is not None) + sizes.get("registers", 0), 8)
        assert np.array_equal(tower.upper(rows, k), whole), k
    rows = tower.lower(images, 3)
    assert np.array_equal(rows, whole) and np.array_equal(tower.upper(rows, 3), whole)


@pytest.mark.slow
def test_a_resnet_has_its_feature_alone():
    tower = ResNet(RESNET, rngs=nnx.Rngs(0))
    images = jax.random.normal(jax.random.key(2), (2, 16, 16, 3))
    assert np.array_equal(tower.upper(tower.lower(images, 2), 2), tower(images))
    with pytest.raises(ValueError, match="k = 2, found 1"):
        tower.lower(images, 1)


# -- whole runs


def config_of(**changes):
    config = importlib.import_module("configs.demo").get_config("debug")
    plain = {
        "data.name": "digits", "data.imbalance": 50.0, "train.augment": "none", "train.epochs": 2,
        "train.batch": 128, "test.tte": False, "tuner.name": "none",
    }  # fmt: skip
    config.update_from_flattened_dict(plain | {k.replace("__", "."): v for k, v in changes.items()})
    return config


def outcome(config, workdir):
    """Returns the losses, last tuned leaves and results of a run."""
    tuned, test = {}, results.test

    def tested(config, setup, state, *more):
        tuned.update(jax.tree.map(np.asarray, state.tuned))
        return test(config, setup, state, *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "test", tested)
        found = train_and_test(config, workdir)
    losses = [json.loads(line)["loss"] for line in (workdir / "log.jsonl").read_text().splitlines()]
    return losses, tuned, {k: v for k, v in found.items() if "second" not in k}


@pytest.mark.slow
@pytest.mark.parametrize("changes", [
    {"head__init": "class_mean"}, {"tuner__name": "adaptformer", "tuner__partial": 1},
])  # fmt: skip
def test_a_run_from_activations_is_the_run_from_images(changes, folder, tmp_path, monkeypatch):
    losses, leaves, results = outcome(config_of(**changes, data__features_gb=0.0), tmp_path / "a")
    assert not folder.exists()
    config = config_of(**changes)
    found = outcome(config, tmp_path / "b")
    # of the training and the test split; a head from images sees another view of the first
    assert len(list(folder.glob("*"))) == (3 if "head__init" in changes else 2)

    np.testing.assert_allclose(found[0], losses, rtol=1e-5)
    assert len(losses) == 8 and losses[0] != losses[-1] and found[2] == results
    assert found[1].keys() == leaves.keys()
    for path, leaf in leaves.items():
        np.testing.assert_allclose(found[1][path], leaf, rtol=1e-4, atol=1e-6, err_msg=path)

    # another run looks at no image but those of its report, and begins above the kept blocks
    calls = []
    monkeypatch.setattr(examples, "thumbnail", lambda *_: None)
    monkeypatch.setattr(ArrayImages, "__getitem__", lambda *_: calls.append("image"))
    monkeypatch.setattr(Cache, "_write", lambda *_: calls.append("computed"))
    again = outcome(config, tmp_path / "c")
    assert not calls
    assert again[0] == found[0] and again[2] == results


@pytest.mark.slow
@pytest.mark.parametrize(("changes", "rows"), [
    ({}, True), ({"train__augment": "mda"}, False), ({"train__augment": "rrc"}, False),
    ({"train__flip": True}, False), ({"tuner__name": "adaptformer"}, False),
    ({"data__features_gb": 0.0}, False),
])  # fmt: skip
def test_what_training_reads(changes, rows, folder, tmp_path, monkeypatch):
    class Seen(Exception):
        pass

    def batches(split, transform, **_):
        assert isinstance(transform, IdentityView) == rows
        assert isinstance(split.images, ActivationRows) == rows
        raise Seen

    monkeypatch.setattr(loop.loader, "train_batches", batches)
    with pytest.raises(Seen):
        train_and_test(config_of(**changes), tmp_path)
    assert folder.exists() == rows


# -- the files


class Told(Console):
    """A console that keeps what is printed."""

    def __init__(self):
        super().__init__(quiet=True)
        self.lines = []

    def print(self, *lines, **_):
        self.lines += lines


def split_of(n=11):
    pixels = np.random.default_rng(0).integers(0, 256, (n, 8, 8, 3), np.uint8)
    return Split(ArrayImages(pixels, "made up", np.arange(n)), np.arange(n) % 5)


def cache_of(gigabytes=1.0, fingerprint="weights"):
    return Cache(gigabytes, fingerprint, mesh.make_mesh(), 8, 0, Told())


def read(cache, tower, split=None, view=VIEW, tuned=()):
    return cache.read(tower, tuned, split or split_of(), view)


@pytest.mark.slow
def test_rows_are_in_the_order_of_the_images(tower, folder):
    found = read(cache_of(), tower)
    assert (found.start, found.workers, len(found.split)) == (3, 0, 11)
    rows = [found.view(found.split.images[i]) for i in range(11)]
    images = [VIEW(image) for image in split_of().images.pixels]
    whole = tower(forward.normalise(jnp.asarray(np.stack(images)), tower.config))
    np.testing.assert_allclose(rows, whole, rtol=1e-5, atol=1e-6)
    assert np.array_equal(found.split.labels, split_of().labels)


def test_processes_may_hold_rows_in_another_order(tower, folder, monkeypatch):
    put = mesh.put_batch
    wanted = read(cache_of(), tower).split.images.rows

    def strided(devices, batch):
        """Puts a batch as two processes do: the first holds every other row."""
        order = np.arange(8).reshape(4, 2).T.reshape(-1)
        return put(devices, {key: value[order] for key, value in batch.items()})

    monkeypatch.setattr(stream, "put_batch", strided)
    found = read(cache_of(fingerprint="others"), tower).split.images.rows
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("damage", ["flip", "cut", "other key", "empty"])
def test_a_damaged_file_is_computed_again(damage, tower, folder):
    first = read(cache_of(), tower)
    (file,) = folder.iterdir()
    good = file.read_bytes()
    wrong = {
        "flip": good[:100] + bytes([good[100] ^ 1]) + good[101:], "cut": good[:-1], "empty": b"",
        "other key": good[:-1] + (b"0" if good[-1:] != b"0" else b"1"),
    }[damage]  # fmt: skip
    file.unlink()  # because the first reading has mapped it
    file.write_bytes(wrong)
    cache = cache_of()
    again = read(cache, tower)
    assert "computed in" in cache.console.lines[-1]
    assert file.read_bytes() == good and [*folder.iterdir()] == [file]
    assert np.array_equal(again.split.images.rows, first.split.images.rows)


@pytest.mark.slow
def test_a_good_file_is_found_by_all_that_it_depends_on(tower, folder):
    read(cache_of(), tower)
    cache = cache_of()
    read(cache, tower)
    assert len([*folder.iterdir()]) == 1 and "as they were kept" in cache.console.lines[-1]
    other = split_of()
    other.images.pixels[3, 2, 1] ^= 1
    half = nnx.clone(tower)  # with weights of the same types, as for full fine-tuning
    half.precision = Precision.of("float16", "float32")
    for i, changed in enumerate([
        read(cache_of(), half), read(cache_of(fingerprint="others"), tower),
        read(cache_of(), tower, split=other),
        read(cache_of(), tower, view=TestTransform(8, "bilinear")),
        read(cache_of(), tower, view=TestTransform(8, expand=0)),
        read(cache_of(), tower, split=split_of(10)),
        read(cache_of(), tower, tuned=["visual/blocks/2/q/kernel"]),
    ]):  # fmt: skip
        assert changed.start and len([*folder.iterdir()]) >= i + 2
    assert len([*folder.iterdir()]) == 8


def test_files_of_images_are_told_apart_by_size_and_time(tmp_path):
    paths = ["a.png", "b.png"]
    for path in paths:
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / path)
    images = FileImages(str(tmp_path), paths)
    first = fingerprint_images(images)
    assert first == fingerprint_images(FileImages(str(tmp_path), list(paths)))
    assert first != fingerprint_images(FileImages(str(tmp_path), paths[::-1]))
    assert first != fingerprint_images(replace(images, how=Decoding(exif=True)))
    shards = TfdsImages(str(tmp_path), "train", "image", np.arange(2))
    stamps = [fingerprint_images(each) for each in (shards, replace(shards, rows=np.arange(1, 3)))]
    os.utime(tmp_path / "b.png", ns=(1, 1))
    assert fingerprint_images(images) not in (first, None)
    assert len({*stamps, fingerprint_images(shards), None}) == 4
    (tmp_path / "b.png").unlink()
    assert fingerprint_images(images) is None


def test_what_does_not_fit_is_told_and_not_kept(tower, folder):
    cache = cache_of(gigabytes=11 * 8 * 4 / 1e9 - 1e-10)
    found = read(cache, tower)
    assert (found.start, found.view) == (0, VIEW)
    assert "not kept" in cache.console.lines[-1] and "data.features_gb" in cache.console.lines[-1]
    assert not [*folder.iterdir()]


def test_the_budget_is_of_all_files_and_the_longest_unused_go(tower, folder):
    one = 11 * 8 * 4 + row_file.TRAILER
    splits = [split_of() for _ in range(3)]
    for i, split in enumerate(splits):
        split.images.pixels[0] = i
    cache = cache_of(gigabytes=2 * one / 1e9)
    file_of = {}
    for i in (0, 1):
        file_of[i] = read(cache, tower, split=splits[i]).split.images.file
        seconds = time.time() - 60 + i  # the clock of a file system may be coarse
        os.utime(file_of[i], (seconds, seconds))
    read(cache, tower, split=splits[0])  # now it is the last one used
    file_of[2] = read(cache, tower, split=splits[2]).split.images.file
    assert {*folder.iterdir()} == {file_of[0], file_of[2]}


def test_rows_that_lack_an_image_are_not_kept(tower, folder, monkeypatch):
    def lacking(*arguments, **more):
        for rows, labels in tower_outputs(*arguments, **more):
            yield rows[1:], labels[1:]

    monkeypatch.setattr(cache_module, "tower_outputs", lacking)
    cache = cache_of()
    assert read(cache, tower).start == 0
    assert "2 images cannot be read" in cache.console.lines[-1]
    assert not [*folder.iterdir()]
