"""Tests of AdamW, the warm-up, the cosine by steps, and the average of the tuned leaves."""

import importlib
import json
import re
import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.paths import ROOT
from support.runs import saved_leaves, train_and_test

import lift_jax
from lift_jax.errors import UserError
from lift_jax.parallel import mesh
from lift_jax.runs.kept import features, predictions
from lift_jax.runs.weights import export
from lift_jax.runs.weights.soup import soup
from lift_jax.settings.groups.train import TrainSettings
from lift_jax.settings.parse import parse
from lift_jax.training import checkpoint, optimizer, setup
from lift_jax.training.optimizer import schedule
from lift_jax.training.state import State, create_state, moving_average, state_shardings

ADAMW = {
    "train.optimizer": "adamw", "train.schedule": "step", "train.warmup": 2, "train.lr_end": 0.1,
    "train.lr": 0.003, "train.ema": 0.5,
}  # fmt: skip


def config_of(**changes):
    config = importlib.import_module("configs.demo").get_config("debug")
    config.update_from_flattened_dict(changes)
    return config


def test_warm_up_and_cosine_by_hand():
    """Ten steps, four of warm-up: a line to step 4, and a cosine of six steps from the next one."""
    rate = schedule(2.0, 5, 2, each="step", warmup=4, end=0.1)
    line = [1e-6, 0.25000075, 0.5000005, 0.75000025, 1.0]
    # .1 + .9 (1 + cos(pi i / 6)) / 2 for i = 0 to 4; the cosine has a sixth value, never reached
    cosine = [1.0, 0.939711, 0.775, 0.55, 0.325]
    found = [float(rate(step)) for step in range(10)]
    np.testing.assert_allclose(found, 2 * np.array(line + cosine), rtol=2e-6)


def test_without_a_warm_up_it_is_the_cosine_of_optax():
    rate, wanted = schedule(0.3, 4, 5, each="step", end=0.2), optax.cosine_decay_schedule
    with jax.numpy_dtype_promotion("standard"):
        expected = wanted(0.3, 20, alpha=0.2)(jnp.arange(20))
    np.testing.assert_allclose(rate(jnp.arange(20)), expected, rtol=1e-6)


def test_up_to_its_end_the_warm_up_is_that_of_optax():
    rate = schedule(0.3, 4, 5, each="step", warmup=7)
    wanted = optax.warmup_cosine_decay_schedule(0.3e-6, 0.3, 7, 20)
    with jax.numpy_dtype_promotion("standard"):
        expected = wanted(jnp.arange(8))
    np.testing.assert_allclose(rate(jnp.arange(8)), expected, rtol=1e-6, atol=1e-8)


def test_a_warm_up_of_the_papers_schedule_by_hand():
    """Three epochs of two steps: the epochs' rates 1, .75 and .25, times the line of three steps.

    With an end of .2 they are .2 + .8 times that.
    """
    line = np.array([1e-6, 1 / 3, 2 / 3, 1, 1, 1])
    epochs = np.array([1, 1, 0.75, 0.75, 0.25, 0.25])
    steps = jnp.arange(6)
    np.testing.assert_allclose(schedule(1.0, 3, 2, warmup=3)(steps), line * epochs, rtol=1e-5)
    np.testing.assert_allclose(
        schedule(1.0, 3, 2, warmup=3, end=0.2)(steps), line * (0.2 + 0.8 * epochs), rtol=1e-5
    )


def test_the_papers_schedule_is_what_it_was_bit_for_bit():
    def before(step):
        epoch = jnp.asarray(step, jnp.int32) // 7
        return 0.013 * (1 + jnp.cos(jnp.pi * epoch.astype(jnp.float32) / 11)) / 2

    rate, train = schedule(0.013, 11, 7), TrainSettings(epochs=11)
    for program in (lambda f: f, jax.jit):
        found = [program(rate)(jnp.int32(step)) for step in range(77)]
        assert found == [program(before)(jnp.int32(step)) for step in range(77)]
    logged = optimizer.rates(rate, train, 7)
    np.testing.assert_allclose(logged, [before(step) for step in range(77)], rtol=1e-6)


def test_the_logged_rates_of_a_warm_up_are_those_of_each_step():
    rate = schedule(0.1, 2, 3, warmup=2)
    found = optimizer.rates(rate, TrainSettings(epochs=2, warmup=2), 3)
    np.testing.assert_allclose(found, [1e-7, 0.05, 0.1, 0.05, 0.05, 0.05], rtol=1e-5)


def test_a_warm_up_as_long_as_the_run_is_refused():
    train = TrainSettings(epochs=2, batch=4, warmup=5)
    assert setup.count_steps(12, train) == 3
    with pytest.raises(UserError, match="train.warmup is 6, and training has 6 steps"):
        setup.count_steps(12, replace(train, warmup=6))


def test_adamw_by_hand():
    """Three steps of one weight by the formula of AdamW, in float64; a frozen leaf stays.

    m = .9 m + .1 g, v = .999 v + .001 g^2, w = (1 - lr * wd) w - lr * m' / (sqrt(v') + 1e-8), with
    m' = m / (1 - .9^t) and v' = v / (1 - .999^t).
    """
    lr, decay, gradients = 0.1, 0.01, [0.5, -1.0, 2.0]
    m = v = 0.0
    w, wanted = 3.0, []
    for t, g in enumerate(gradients, 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        step = (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)) ** 0.5 + 1e-8)
        w = (1 - lr * decay) * w - lr * step
        wanted.append(w)
    assert wanted[0] == pytest.approx(3 * 0.999 - 0.1)  # the first step is lr * sign(g)

    made = optimizer.make(TrainSettings(optimizer="adamw", weight_decay=decay), lambda _: lr)
    made = optimizer.freeze(made, {"a": True, "b": False})
    leaves = {"a": jnp.full(2, 3.0), "b": jnp.full(2, 3.0)}
    state, found = made.init(leaves), []
    for g in gradients:
        updates, state = made.update({"a": jnp.full(2, g), "b": jnp.full(2, g)}, state, leaves)
        leaves = optax.apply_updates(leaves, updates)
        found.append(float(leaves["a"][1]))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert leaves["b"].tolist() == [3.0, 3.0]


@pytest.mark.parametrize(("options", "words"), [
    ({}, ""), ({"optimizer": "adamw", "lr": 0.0003}, ""),
    ({"optimizer": "adamw"}, "train.lr is 0.02, a rate for SGD"),
])  # fmt: skip
def test_a_rate_for_sgd_is_told_with_adamw(options, words):
    found = optimizer.note(TrainSettings(**options))
    assert words in found and bool(found) == bool(words)


def test_the_average_by_hand():
    """The first step's leaves are copied: 8, then .75 * 8 + .25 * 4 = 7, then 6.25."""
    state = create_state({"a": jnp.zeros(())}, optax.sgd(0.1), averages=True)
    found = []
    for value in (8.0, 4.0, 4.0):
        tuned = {"a": jnp.asarray(value)}
        state = State(state.step + 1, tuned, state.opt, moving_average(state, tuned, 0.75))
        found.append(float(state.weights["a"]))
    assert found == [8.0, 7.0, 6.25]


def test_without_an_average_a_state_has_the_parts_that_it_had():
    plain, averaged = (create_state({"a": jnp.ones(3)}, optax.sgd(0.1), on) for on in (False, True))
    assert plain.weights is plain.tuned and len(jax.tree.leaves(plain)) == 2
    names = [jax.tree_util.keystr(path[:1]) for path, _ in jax.tree.leaves_with_path(averaged)]
    assert names == [".step", ".tuned", ".ema"]


def test_only_training_takes_the_weights_as_they_are():
    """All others ask a state for `weights`, the average where there is one."""
    package = ROOT / "lift_jax"
    found = {
        str(file.relative_to(package))
        for file in package.rglob("*.py")
        if re.search(r"\bstate\.tuned\b", file.read_text(encoding="utf-8"))
    }
    assert found == {
        "training/step.py", "training/loop.py", "benchmarks/against.py", "benchmarks/precisions.py",
    }  # fmt: skip


@pytest.mark.parametrize(("options", "arrays"), [
    ({}, 2), ({"ema": 0.9}, 3),
    ({"optimizer": "adamw"}, 3), ({"optimizer": "adamw", "ema": 0.9}, 4),
])  # fmt: skip
def test_memory_of_a_tuned_leaf(options, arrays):
    """A leaf of 1,000 numbers takes so many arrays of its size in the state."""
    train = TrainSettings(**options)
    state = create_state(
        {"a": jnp.zeros(1000)}, optimizer.make(train, lambda _: 0.1), train.ema > 0
    )
    size = sum(leaf.size for leaf in jax.tree.leaves(state))
    assert optimizer.arrays_per_leaf(train) == arrays == size // 1000


def test_moments_and_average_are_split_over_devices_as_their_leaf(monkeypatch):
    monkeypatch.setattr(mesh, "LARGE_HEAD", 1)
    devices = mesh.make_mesh(strategy="fsdp", model=jax.device_count())
    made = optimizer.make(TrainSettings(optimizer="adamw"), lambda _: 0.1)
    state = create_state({"head/weight": jnp.zeros((16, 8))}, made, averages=True)
    placed = jax.device_put(state, state_shardings(state, devices))
    sizes = {leaf.sharding.shard_shape(leaf.shape) for leaf in jax.tree.leaves(placed) if leaf.ndim}
    assert sizes == {placed.tuned["head/weight"].sharding.shard_shape((16, 8))}
    assert sizes != {(16, 8)} or jax.device_count() == 1


def test_momentum_belongs_to_sgd():
    config = config_of(**{"train.optimizer": "adamw", "train.momentum": 0.5})
    with pytest.raises(UserError, match="train.momentum is 0.5, but train.optimizer is 'adamw'"):
        parse(config)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Returns a run of four steps with AdamW, warm-up and average, saved after each of them."""
    workdir = tmp_path_factory.mktemp("adamw")
    saving = {"checkpoint.every_steps": 1, "checkpoint.keep": 9}
    config = config_of(**ADAMW, **saving, **{"train.epochs": 2, "data.val_share": 0.2})
    return config, workdir, train_and_test(config, workdir)


def facts(results):
    return {key: v for key, v in results.items() if key not in ("seconds", "images_per_second")}


def records(workdir):
    lines = map(json.loads, (workdir / "log.jsonl").read_text().splitlines())
    return [(line["step"], line["loss"], line["lr"]) for line in lines]


@pytest.mark.slow
def test_killed_in_its_warm_up_it_ends_as_if_it_had_not_been(straight, tmp_path):
    config, workdir, wanted = straight
    shutil.copytree(workdir, tmp_path / "run")
    for step in (2, 3, 4):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / str(step))
    (tmp_path / "run" / "metrics.json").unlink()
    assert facts(train_and_test(config, tmp_path / "run")) == facts(wanted)
    assert records(tmp_path / "run") == records(workdir)
    for part in ("tuned", "ema"):
        found, straight_on = (saved_leaves(run, part) for run in (tmp_path / "run", workdir))
        assert all(np.array_equal(found[path], leaf) for path, leaf in straight_on.items())


@pytest.mark.slow
def test_the_log_has_the_rate_of_each_step(straight):
    rates = [rate for _, _, rate in records(straight[1])]
    np.testing.assert_allclose(rates, [3e-9, 0.0015, 0.003, 0.003], rtol=1e-5)


@pytest.mark.slow
def test_the_average_is_tested_exported_and_predicts(straight):
    """All take the average by hand: w1, then half of the average and half of the new weights."""
    config, workdir, _ = straight
    steps = [saved_leaves(workdir, step=step) for step in (1, 2, 3, 4)]
    wanted = steps[0]
    for leaves in steps[1:]:
        wanted = {path: 0.5 * wanted[path] + 0.5 * leaf for path, leaf in leaves.items()}
    exported = export.read_tuned(workdir)
    assert exported.keys() == wanted.keys()
    for path, leaf in wanted.items():
        np.testing.assert_allclose(exported[path], leaf, rtol=1e-6, atol=1e-9, err_msg=path)
    averaged, last = (checkpoint.weights_checksum(w) for w in (exported, steps[-1]))
    assert averaged != last
    assert lift_jax.Predictor(workdir).weights == averaged
    assert predictions.read(workdir).weights == features.read(workdir).weights == averaged
    assert json.loads((workdir / "calibration.json").read_text())["weights"] == averaged


@pytest.mark.slow
def test_a_soup_of_averages_is_their_mean(straight, tmp_path):
    """A run and its copy give the run's averaged weights again, and its results."""
    _, workdir, wanted = straight
    shutil.copytree(workdir, tmp_path / "copy")
    found = soup([workdir, tmp_path / "copy"], tmp_path / "soup")
    assert found["test"] == wanted["test"]
    leaves, run = export.read_tuned(tmp_path / "soup"), export.read_tuned(workdir)
    assert all(np.array_equal(leaves[path], leaf) for path, leaf in run.items())
