"""Tests of class sampling: shares by hand, whole cycles, views, and the same draws everywhere."""

import importlib

import numpy as np
import pytest
from support.runs import train_and_test

from lift_jax.data import loader
from lift_jax.data.images.views import TrainTransform
from lift_jax.data.prior import expected_draws
from lift_jax.data.sampling import ClassDraws
from lift_jax.data.types import ArrayImages, Split
from lift_jax.training import losses

COUNTS = [16, 4, 0, 1]  # images of each class, 21 in all
LABELS = np.random.default_rng(1).permutation(np.repeat([0, 1, 3], [16, 4, 1]))


@pytest.fixture(scope="module")
def split():
    pixels = np.random.default_rng(0).integers(0, 256, (21, 11, 13, 3), np.uint8)
    return Split(ArrayImages(pixels, "noise", LABELS), LABELS)


def train(split, sampling, **options):
    view = TrainTransform(4, "mda", "bicubic", "linear", 0.08, True, 3)
    options = dict(seed=0, epochs=3, batch=8, sampling=sampling) | options
    return list(loader.train_batches(split, view, **options))


@pytest.mark.parametrize(("sampling", "shares"), [
    ("natural", [16, 4, 0, 1]),
    ("balanced", [7, 7, 0, 7]),
    ("sqrt", [12, 6, 0, 3]),  # 4 : 2 : 0 : 1 of 21
])  # fmt: skip
def test_shares_by_hand(sampling, shares, split):
    assert expected_draws(COUNTS, sampling).tolist() == shares
    batches = train(split, sampling)
    for epoch in range(3):  # of two full batches and one of 5
        labels = [batch["label"][batch["mask"]] for batch in batches[3 * epoch : 3 * epoch + 3]]
        assert [len(part) for part in labels] == [8, 8, 5]
        assert np.bincount(np.concatenate(labels), minlength=4).tolist() == shares


def test_a_share_between_two_numbers_is_kept_on_average():
    """Ten draws of three classes are 3 or 4 of each, 10/3 on average over 3,000 epochs."""
    draws = ClassDraws(np.repeat([0, 1, 2], [5, 3, 2]), "balanced", 0)
    counts = np.stack([draws.counts(epoch)[0] for epoch in range(3000)])
    assert np.all((counts == 3) | (counts == 4)) and np.all(counts.sum(axis=1) == 10)
    np.testing.assert_allclose(counts.mean(axis=0), 10 / 3, atol=0.04)  # 4.6 deviations


@pytest.mark.parametrize("sampling", ["balanced", "sqrt"])
def test_all_images_of_a_class_come_before_one_comes_again(sampling):
    """The draws of a class over the epochs, cut into pieces as long as the class, are its images.

    The orders of the pieces differ, and the order of the classes differs from epoch to epoch.
    """
    draws = ClassDraws(LABELS, sampling, 0)
    epochs = [draws.epoch(epoch)[:, 0] for epoch in range(8)]
    run = np.concatenate(epochs)
    for c in (0, 1, 3):
        own, images = np.flatnonzero(LABELS == c), run[LABELS[run] == c]
        pieces = images[: len(images) // len(own) * len(own)].reshape(-1, len(own))
        assert len(pieces) >= 3 and np.all(np.sort(pieces) == own)
        assert len(own) == 1 or len(np.unique(pieces, axis=0)) > len(pieces) // 2
    assert len({tuple(LABELS[order]) for order in epochs}) == 8


def test_repeats_are_counted_within_an_epoch():
    """The lone image of class 3 is drawn seven times an epoch: 0 to 6 draws came before."""
    images, repeats = ClassDraws(LABELS, "balanced", 0).epoch(1).T
    assert repeats[LABELS[images] == 3].tolist() == list(range(7))
    assert np.all(repeats[LABELS[images] == 0] == 0)


def test_repeats_of_an_image_have_views_of_their_own(split):
    """The first view in an epoch is that of natural sampling, and no two are alike."""
    natural, balanced = train(split, "natural"), train(split, "balanced")

    def views(batches):
        return [view for batch in batches[:3] for view in batch["image"][batch["label"] == 3]]

    assert len(views(natural)) == 1 and len(views(balanced)) == 7
    assert np.array_equal(views(balanced)[0], views(natural)[0])
    assert len({view.tobytes() for view in views(balanced)}) == 7


@pytest.mark.parametrize("sampling", ["balanced", "sqrt"])
@pytest.mark.parametrize("start", [0, 4])
def test_draws_are_the_same_from_any_step_in_any_number_of_processes(split, sampling, start):
    whole = train(split, sampling)[start:]
    shares = [train(split, sampling, start_step=start, process=p, processes=2) for p in (0, 1)]
    assert len(whole) == len(shares[0]) == len(shares[1]) == 9 - start
    for batch, *parts in zip(whole, *shares, strict=True):
        for key in batch:
            assert np.array_equal(batch[key][0::2], parts[0][key]), key
            assert np.array_equal(batch[key][1::2], parts[1][key]), key


@pytest.mark.slow
def test_draws_are_the_same_in_worker_processes(split):
    here, there = train(split, "balanced"), train(split, "balanced", workers=2)
    for one, two in zip(here, there, strict=True):
        assert all(np.array_equal(one[key], two[key]) for key in one)


def test_the_seed_changes_the_draws(split):
    one, other = (ClassDraws(LABELS, "balanced", seed).epoch(0) for seed in (0, 1))
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(("name", "like"), [
    ("la", "ce"), ("bs", "ce"), ("cb", "ce"), ("grw", "ce"),
])  # fmt: skip
def test_under_balanced_sampling_the_loss_is_plain(name, like):
    """No prior is left to adjust for, and no weight differs from another."""
    logits = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    labels, draws = np.array([0, 1, 3, 0, 0, 1]), expected_draws(COUNTS, "balanced")
    found = losses.make(name, draws)(logits, labels)
    np.testing.assert_allclose(found, losses.make(like, COUNTS)(logits, labels), rtol=1e-6)
    assert abs(found - losses.make(name, COUNTS)(logits, labels)) > 0.01


def test_margins_of_ldam_follow_the_draws():
    """Shares of 12, 6 and 3 give margins in proportion to n^(-1/4), the largest 0.5."""
    margins = losses.margins(expected_draws(COUNTS, "sqrt")[[0, 1, 3]], 0.5)
    np.testing.assert_allclose(margins, [0.5 * 4**-0.25, 0.5 * 2**-0.25, 0.5], rtol=1e-12)


@pytest.mark.slow
def test_a_run_gives_its_loss_the_draws(tmp_path, monkeypatch):
    class Seen(Exception):
        pass

    def make(name, counts, **_):
        raise Seen(name, counts.tolist())

    monkeypatch.setattr(losses, "make", make)
    config = importlib.import_module("configs.demo").get_config("debug")
    config.train.sampling = "balanced"
    with pytest.raises(Seen) as caught:
        train_and_test(config, tmp_path)
    name, counts = caught.value.args
    assert name == "la" and len(set(counts)) == 1 and len(counts) == 7
