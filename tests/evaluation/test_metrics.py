"""Tests of metrics against the authors' evaluators, and by hand where those go wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lift_jax.evaluation import metrics

SETS = ["main", "zero_class", "single_few", "no_few"]


def counted(predictions, labels, classes, batch=7, peak=4.0):
    """Counts of one-hot logits times `peak`, in batches padded with garbage."""
    count, total = jax.jit(metrics.count), None
    for start in range(0, len(labels), batch):
        size = min(batch, len(labels) - start)
        logits = np.full((batch, classes), np.nan, np.float32)
        logits[:size] = peak * np.eye(classes)[predictions[start : start + size]]
        truth = np.full(batch, -1, np.int32)
        truth[:size] = labels[start : start + size]
        total = metrics.add(total, count(logits, truth, np.arange(batch) < size))
    return total


@pytest.mark.parametrize("name", SETS)
def test_summary_equals_both_evaluators(golden, name):
    data = golden("metrics")
    train_counts = data[f"{name}/cls_num_list"]
    counts = counted(data[f"{name}/pred"], data[f"{name}/label"], len(train_counts), batch=37)
    summary = metrics.summarise(counts, train_counts)
    theirs = {
        "overall": ["acc", "lift/accuracy"],
        "mean": ["mean_acc", "lift/mean_acc"],
        "many": ["many_acc", "lift/many_acc"],
        "medium": ["med_acc", "lift/med_acc"],
        "few": ["few_acc", "lift/few_acc"],
        "hmean": ["lift/hmean_acc"],
        "gmean": ["lift/gmean_acc"],
        "worst": ["lift/worst_case_acc"],
        "macro_f1": ["lift/macro_f1"],
    }
    for ours, keys in theirs.items():
        for key in keys:
            want = data[f"{name}/{key}"]
            if np.isnan(want):
                assert summary[ours] is None
            else:
                np.testing.assert_allclose(summary[ours], want, rtol=1e-6)
    np.testing.assert_allclose(metrics.class_accuracy(counts), data[f"{name}/cls_accs"], rtol=1e-6)
    assert summary["images"] == len(data[f"{name}/label"])
    assert tuple(summary) == metrics.NAMES
    assert metrics.absent(counts) == []
    groups = metrics.groups(train_counts)
    for ours, key in [("many", "many"), ("medium", "med"), ("few", "few")]:
        assert np.flatnonzero(groups[ours]).tolist() == data[f"{name}/{key}_classes"].tolist()


def test_classes_without_test_images_by_hand():
    # The authors list the accuracies of the classes they meet and index that list by class number:
    # with class 1 absent, class 2's accuracy would count as class 1's. So this is worked by hand.
    labels = np.array([0, 0, 0, 0, 2, 2, 4])
    predictions = np.array([0, 0, 0, 1, 2, 4, 4])
    counts = counted(predictions, labels, classes=5, batch=3)
    np.testing.assert_allclose(metrics.class_accuracy(counts), [75, np.nan, 50, np.nan, 100])
    assert metrics.absent(counts) == [1, 3]
    summary = metrics.summarise(counts, [200, 101, 100, 20, 19])
    assert summary["overall"] == pytest.approx(100 * 5 / 7)
    assert summary["mean"] == pytest.approx(75)
    assert (summary["many"], summary["medium"], summary["few"]) == (75, 50, 100)
    assert summary["hmean"] == pytest.approx(3 / (1 / 75 + 1 / 50 + 1 / 100))
    assert summary["gmean"] == pytest.approx((75 * 50 * 100) ** (1 / 3))
    assert summary["worst"] == 50
    # F1 of class 0: 6/7, class 2: 2/3, class 4: 2/3. Class 1 is predicted once but has no image.
    assert summary["macro_f1"] == pytest.approx(100 * (6 / 7 + 2 / 3 + 2 / 3) / 3)


def test_the_floors_of_the_two_means():
    counts = counted(np.array([0, 0]), np.array([0, 1]), classes=2)
    summary = metrics.summarise(counts, [50, 5])
    assert summary["hmean"] == pytest.approx(2 / (1 / 100 + 1 / 0.001))
    assert summary["gmean"] == 0 and summary["worst"] == 0
    assert summary["many"] is None


def test_calibration_by_hand():
    # Two classes; three confidences share the bin (.7, .8], and the third row is wrong.
    confidence = np.array([0.72, 0.75, 0.78, 0.55])
    logits = np.float32(np.log(np.stack([confidence, 1 - confidence], 1)))
    counts = metrics.add(None, jax.jit(metrics.count)(logits, np.int32([0, 0, 1, 0])))
    assert counts["bin_total"].tolist() == [0, 0, 0, 0, 0, 1, 0, 3, 0, 0]
    assert counts["bin_correct"].tolist() == [0, 0, 0, 0, 0, 1, 0, 2, 0, 0]
    want = abs(0.55 - 1) + abs(0.72 + 0.75 + 0.78 - 2)
    assert metrics.summarise(counts, [1, 1])["ece"] == pytest.approx(100 * want / 4, rel=1e-5)


def test_certainty_falls_in_the_last_bin():
    counts = jax.jit(metrics.count)(np.float32([[200, 0, 0]]), np.int32([0]))
    assert counts["bin_total"].tolist() == [0] * 9 + [1]
    assert counts["bin_confidence"][9] == 1


def test_counting_types_and_padding():
    logits = np.full((3, 5), np.nan, np.float32)
    labels = np.int32([-1, 99, 5])
    counts = jax.jit(metrics.count)(logits, labels, np.zeros(3, bool))
    for key, value in counts.items():
        assert value.dtype == (jnp.float32 if key == "bin_confidence" else jnp.int32)
        assert not np.any(value)
    total = metrics.add(metrics.add(None, counts), counts)
    assert {key: value.dtype.name for key, value in total.items()} == {
        key: "float64" if key == "bin_confidence" else "int64" for key in counts
    }
    summary = metrics.summarise(total, [1] * 5)
    assert summary.pop("images") == 0 and set(summary.values()) == {None}


def test_a_sharded_batch_counts_the_same():
    rng = np.random.default_rng(7)
    logits = np.float32(rng.normal(size=(24, 11)))
    labels = np.int32(rng.integers(0, 11, 24))
    mask = np.arange(24) < 19
    want = jax.jit(metrics.count)(logits, labels, mask)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    got = jax.jit(metrics.count)(*jax.device_put((logits, labels, mask), rows))
    for key in want:
        np.testing.assert_allclose(got[key], want[key], rtol=1e-6)
