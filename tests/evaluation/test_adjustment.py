"""Tests of post-hoc logit adjustment: by hand, and chosen without the test split."""

import dataclasses
import json
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console
from support.runs import train_and_test

from configs import demo
from lift_jax.data import datasets
from lift_jax.data.types import Dataset, Images, Split
from lift_jax.errors import UserError
from lift_jax.evaluation import adjustment, forward, metrics
from lift_jax.parallel import mesh
from lift_jax.reports import report
from lift_jax.runs import finished_run, log, results
from lift_jax.settings.parse import parse
from lift_jax.training.setup import build
from lift_jax.training.state import create_state

COUNTS = [75, 25]  # log pi_0 - log pi_1 = log 3 = 1.0986, which tau multiplies
# How much larger the logit of class 0 is: tau turns a row to class 1 once tau * 1.0986 exceeds it.
LEADS, LABELS = [2.0, 3.0, 1.0, 1.5], [0, 0, 1, 1]
MEANS = {  # percent, of tau up to and without the next
    0.0: 50.0,  # both of class 1 are wrong
    1.0: 75.0,  # 1.10 > 1.0
    1.4: 100.0,  # 1.54 > 1.5
    1.9: 75.0,  # 2.09 > 2.0: the first of class 0 is lost
    2.8: 50.0,  # 3.08 > 3.0
}


def counted(leads, labels, shifts) -> metrics.Counts:
    """Returns the counts of logits (lead, 0) through the jitted step, padded to the devices."""
    devices = mesh.make_mesh()
    n = len(labels)
    logits = jnp.zeros((8, 2)).at[:n, 0].set(jnp.array(leads))
    batch = {
        "label": jnp.zeros(8, jnp.int32).at[:n].set(jnp.array(labels)),
        "mask": jnp.arange(8) < n,
    }
    placed = jax.device_put((logits, batch), mesh.batch_sharding(devices))
    return metrics.add(None, forward.make_count(devices, shifts)(*placed))


def test_the_tau_of_four_images_by_hand():
    shifts = adjustment.shifts(adjustment.TAUS, COUNTS)
    assert (len(shifts), adjustment.TAUS[0], adjustment.TAUS[-1]) == (31, 0.0, 3.0)
    np.testing.assert_allclose(shifts[10, 0] - shifts[10, 1], np.log(3), rtol=1e-6)
    counts = counted(LEADS, LABELS, shifts)
    tau, found = adjustment.choose(counts)
    assert tau == 1.4  # the smallest that gives 100 %
    for t in adjustment.TAUS:
        assert found[str(t)] == MEANS[max(start for start in MEANS if start <= t)], t
    assert adjustment.select(counts, 0)["correct"].tolist() == [2, 0]
    assert adjustment.select(counts, 14)["correct"].tolist() == [2, 2]


def test_without_an_advantage_nothing_is_adjusted():
    shifts = adjustment.shifts(adjustment.TAUS, COUNTS)
    tau, found = adjustment.choose(counted([3.0, -1.0], [0, 1], shifts))
    assert tau == 0.0 and found["0.0"] == 100.0 and found["3.0"] == 50.0


def test_classes_without_validation_images_are_left_out():
    shifts = adjustment.shifts(adjustment.TAUS, COUNTS)
    tau, found = adjustment.choose(counted([1.5], [1], shifts))
    assert tau == 1.4 and found["1.4"] == 100.0


def test_classes_without_training_images_count_as_the_smallest():
    shifts = adjustment.shifts([1.0], [30, 0, 10])
    assert np.isfinite(shifts).all() and shifts[0, 1] == shifts[0, 2]


# -- in a run


@dataclass
class Turned:
    """The images of another set, upside down."""

    images: Images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int):
        return np.asarray(self.images[i])[::-1]

    def name(self, i: int) -> str:
        return self.images.name(i)


def with_val(data: Dataset) -> Dataset:
    """Returns the set with the training images as the validation split."""
    return Dataset(
        data.train, data.test, data.class_names, data.grouped_by,
        val=data.train,
    )  # fmt: skip


def other_test(data: Dataset) -> Dataset:
    """Returns the set with other images and labels to test."""
    test = Split(Turned(data.test.images), data.test.labels[::-1])
    return Dataset(data.train, test, data.class_names, data.grouped_by, data.val)


@pytest.mark.slow
def test_the_test_split_is_not_looked_at(tmp_path, monkeypatch, capsys):
    config, console, load = demo.get_config("debug"), Console(), datasets.load
    config.test.adjust = True
    monkeypatch.setattr(datasets, "load", lambda *a: with_val(load(*a)))
    setup = dataclasses.replace(build(parse(config), console), zero_shot=None)
    state = create_state(setup.tuned, setup.optimizer)
    first = results.test(parse(config), setup, state, tmp_path, console)
    assert "Adjustment: tau" in capsys.readouterr().out
    assert list(first["adjustment"]["val_mean"]) == [str(tau) for tau in adjustment.TAUS]

    # what is written and read again
    assert json.loads((tmp_path / "metrics.json").read_text()) == first
    run = finished_run.load(tmp_path)
    assert list(run.results) == [row for row in finished_run.RESULTS if row != "zero_shot"]
    assert run.labels["test_tte_adjusted"] == "LIFT+ with TTE, adjusted"
    for row in finished_run.ADJUSTED:
        assert np.nanmean(run.accuracy[row]) == pytest.approx(first[row]["mean"])
    assert "LIFT+, adjusted" in report.write(tmp_path).read_text()

    # another test split, and a tau that leaves nothing but the rarest class
    chosen, choose = [], adjustment.choose
    forced = 1e4, {"0.0": 50.0, "10000.0": 50.0}
    monkeypatch.setattr(
        adjustment, "choose", lambda counts: chosen.append(choose(counts)) or forced
    )
    config.test.tte = False
    other = dataclasses.replace(setup, data=other_test(setup.data))
    second = results.test(parse(config), other, state, tmp_path, console)
    assert chosen == [tuple(first["adjustment"].values())]
    assert first["test"] != second["test"] and second["test_tte_adjusted"] is None
    rarest = np.arange(7) == setup.data.counts.argmin()
    assert (
        finished_run.load(tmp_path).accuracy["test_adjusted"].tolist() == (100.0 * rarest).tolist()
    )


def test_there_must_be_a_validation_split(tmp_path):
    config = demo.get_config("debug")
    config.test.adjust = True
    with pytest.raises(UserError, match=r"(?s)validation split.*val/.*data.val_list.*val_share"):
        train_and_test(config, tmp_path)
    assert not (tmp_path / log.LOG).exists()
