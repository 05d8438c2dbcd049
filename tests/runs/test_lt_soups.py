"""Tests of LT-Soups: the plan, the joining rule, and runs that are killed in each part."""

import json
import shutil
from collections import Counter

import numpy as np
import pytest
from support.runs import saved_leaves, train_and_test

from configs import demo
from lift_jax.data import splits
from lift_jax.data.batches.order import steps_per_epoch
from lift_jax.data.types import ArrayImages, Split
from lift_jax.errors import UserError
from lift_jax.runs import log, results
from lift_jax.runs.phases import plan, stages, training
from lift_jax.runs.phases.join import join
from lift_jax.runs.weights import export
from lift_jax.settings.parse import parse, to_dict


def config_of(argument="debug,method=lt_soups", **changes):
    config = demo.get_config(argument)
    config.test.tte = False  # which costs time and shows nothing here
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config


# -- the images of a stage


LABELS = [1, 0, 0, 2, 0, 1, 0, 2, 0, 0, 1]  # six images of class 0, three of 1, two of 2


@pytest.mark.parametrize(("seed", "drawn"), [
    (0, [8, 6, 10, 0, 7, 3]),  # the draws of the authors' code for two images a class, with NumPy's
    (1, [4, 6, 0, 5, 3, 7]),   # default_rng(seed) and the classes in the order of their labels
    (5, [8, 6, 5, 10, 7, 3]),
])  # fmt: skip
def test_classes_are_cut_by_the_authors_draws(seed, drawn):
    rows = np.arange(len(LABELS))
    split = Split(ArrayImages(np.zeros((len(rows), 1, 1, 3), np.uint8), "here", rows), LABELS)
    cut = splits.capped(split, 2, seed)
    assert cut.images.rows.tolist() == sorted(drawn)
    assert cut.labels.tolist() == [LABELS[i] for i in sorted(drawn)]
    assert splits.capped(split, 6, seed).images.rows.tolist() == rows.tolist()


def test_the_plan_by_hand():
    settings = parse(config_of("method=lt_soups", soups__factors="0, 2,-1,6", train__epochs=10))
    found = plan.stages(settings, np.array([50, 0, 3, 7]))  # the empty class is not the smallest
    assert [(s.number, s.of, s.factor, s.most) for s in found] == [
        (1, 4, 0, 3), (2, 4, 2, 12), (3, 4, -1, 0), (4, 4, 6, 192),
    ]  # fmt: skip
    first, second = plan.models(found[1], 2)
    assert (first.title, second.folder) == ("stage 2 of 4, model 1 of 2", "stage_2_model_2")


@pytest.mark.parametrize(("images", "epochs"), [
    (9, 100),  # one step an epoch
    (64, 50), (65, 34),  # two, and three: 102 steps
    (320, 10), (1000, 10),  # 10 epochs have 100 steps and more
])  # fmt: skip
def test_a_model_has_at_least_so_many_steps(images, epochs):
    settings = parse(config_of("method=lt_soups", train__epochs=10, train__batch=32))
    assert plan.epochs(settings, images) == epochs
    assert steps_per_epoch(images, 32) * epochs >= 100


def test_every_model_has_its_own_seed_and_factor_0_plain_cross_entropy():
    seeds = set()
    for run in (0, 1, 2):
        settings = parse(config_of("method=lt_soups", seed=run))
        for stage in plan.stages(settings, np.array([50, 3])):
            for model in plan.models(stage, 2):
                own = model.settings(settings, 10)
                seeds.add(own.seed)
                assert own.loss.name == ("ce" if stage.factor == 0 else "la")
    assert len(seeds) == 3 * 7 * 2


# -- the joining rule


def leaf(*values):
    return {"a": np.array(values, np.float32)}


def test_stages_are_joined_by_hand():
    start = leaf(1.0, -2.0)
    first = join(start, start, [leaf(2.0, -2.0), leaf(4.0, 0.0)], 0.7)
    # the stage is 1 + (1 + 3) / 2 = 3 and -2 + (0 + 2) / 2 = -1; joined .3 * start + .7 * stage
    np.testing.assert_allclose(first["a"], [0.3 * 1 + 0.7 * 3, 0.3 * -2 + 0.7 * -1], rtol=1e-7)
    second = join(first, start, [leaf(1.0, 1.0)], 0.7)  # the first stage has .3 * .7 of it
    np.testing.assert_allclose(second["a"], [0.3 * 2.4 + 0.7 * 1, 0.3 * -1.3 + 0.7 * 1], rtol=1e-6)
    assert second["a"].dtype == np.float32


def test_a_share_of_one_takes_the_last_stage_alone():
    assert join(leaf(5.0), leaf(1.0), [leaf(2.0), leaf(3.0)], 1.0)["a"].tolist() == [2.5]


# -- settings


@pytest.mark.parametrize(("argument", "changes", "message"), [
    ("", {"soups__join": 0.5}, "soups.join is 0.5, but soups.models is 0.*method=lt_soups"),
    ("", {"soups__factors": "0"}, "soups.factors is 0, but soups.models is 0"),
    ("method=lt_soups", {"soups__factors": "0,,1"}, "soups.factors is '0,,1'; expected numbers"),
    ("method=lt_soups", {"soups__factors": "-2"}, "soups.factors is '-2'; expected numbers"),
    ("method=lt_soups", {"soups__join": 0.0}, "soups.join is 0.0; it must be in \\(0, 1\\]"),
    ("method=lt_soups", {"tuner__name": "coop"}, "soups.models is set, but head.kind is 'text'"),
])  # fmt: skip
def test_settings_that_do_not_go_together(argument, changes, message):
    with pytest.raises(UserError, match=message):
        parse(config_of(argument, **changes))


def test_the_preset_is_that_of_the_authors_script():
    config = config_of("method=lt_soups")
    train, soups = config.train, config.soups
    assert (train.optimizer, train.lr, train.weight_decay) == ("adamw", 3e-5, 0.01)
    assert (train.schedule, train.warmup, train.lr_end, train.ema) == ("step", 20, 0.1, 0.99)
    assert (soups.models, soups.factors, soups.join) == (2, "0,1,2,3,4,5,6", 0.7)
    assert (soups.least_steps, config.tuner.name, config.label) == (100, "full", "LT-Soups")
    assert config_of("method=lift").soups.models == config_of("").soups.models == 0


def test_a_config_from_before_is_a_plain_run():
    old = to_dict(config_of("debug"))
    del old["soups"], old["data"]["max_per_class"]
    assert (parse(old).soups.models, parse(old).data.max_per_class) == (0, 0)


# -- runs


def test_a_warm_up_that_is_too_long_names_the_stage_and_its_least_steps(tmp_path):
    short = {"train__epochs": 5, "train__batch": 16, "train__warmup": 6}
    config = config_of("debug,method=lt_soups", soups__least_steps=5, **short)
    with pytest.raises(UserError) as error:
        train_and_test(config, tmp_path)
    assert "LT-Soups, stage 1 of 2 (at most 1 images a class): " in str(error.value)
    assert "train.warmup is 6, and training has 5 steps" in str(error.value)
    assert "soups.least_steps steps, which is 5." in str(error.value)


class Killed(BaseException):
    """Stands for a kill: nothing in the program handles it."""


def watch(patch, happened):
    """Calls `happened(event)` at every moment between two of which a kill makes a difference."""
    record, keep = training.RunOutput.record, stages.Stages._keep
    remove, test = stages.Stages._remove, results.test

    def on_record(self, step):
        record(self, step)
        happened(f"step {step.step} in {self._workdir.name}")

    def on_keep(self, name, *more):
        happened(f"before {name}")
        kept = keep(self, name, *more)
        happened(f"after {name}")
        return kept

    def on_remove(self, model, name):
        happened(f"before removing {model.folder}/{name}")
        remove(self, model, name)

    def on_test(*more):
        happened("before the test")
        return test(*more)

    patch.setattr(training.RunOutput, "record", on_record)
    patch.setattr(stages.Stages, "_keep", on_keep)
    patch.setattr(stages.Stages, "_remove", on_remove)
    patch.setattr(results, "test", on_test)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of two stages that nothing stops, its events, and what its stages joined."""
    folder, events, joins = tmp_path_factory.mktemp("whole") / "run", [], []

    def joining(*arguments):
        joins.append((arguments, join(*arguments)))
        return joins[-1][1]

    with pytest.MonkeyPatch.context() as patch:
        watch(patch, events.append)
        patch.setattr(stages, "join", joining)
        train_and_test(config_of(), folder)
    return folder, events, joins


def losses(folder):
    return {
        path.parent.name * (path.parent != folder): [step.loss for step in log.read_log(path)]
        for path in folder.rglob(log.LOG)
    }


@pytest.mark.slow
def test_a_run_killed_in_each_part_ends_with_the_same_bytes(whole, tmp_path):
    folder, events, _ = whole
    kills = [
        "after start", "step 1 in stage_1_model_1", "before stage_1_model_1",
        "after stage_1_model_1", "step 2 in stage_1_model_2", "before joined", "after joined",
        "before removing stage_1_model_2/adapters.safetensors", "step 1 in stage_2_model_2",
        "step 1 in run", "before the test",
    ]  # fmt: skip
    assert set(kills) <= set(events)
    for event in kills:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            watch(patch, kill_at(event))
            train_and_test(config_of(), tmp_path / "run")
    train_and_test(config_of(), tmp_path / "run")
    assert losses(tmp_path / "run") == losses(folder)
    same_run(tmp_path / "run", folder)


def kill_at(event):
    """Returns what kills the run at an event."""

    def happened(found):
        if found == event:
            raise Killed

    return happened


def same_run(one, other):
    first, second = saved_leaves(one), saved_leaves(other)
    assert first.keys() == second.keys() and len(first) > 10
    assert all(np.array_equal(first[path], second[path]) for path in first)
    for name in ("predictions.safetensors", "per_class.csv", "config.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    files = [sorted(p.relative_to(run).as_posix() for p in run.rglob("*")) for run in (one, other)]
    kept = [[f for f in found if "events" not in f and "/d/" not in f] for found in files]
    assert [f for f in kept[0] if f.startswith("soups")] == [
        f for f in kept[1] if f.startswith("soups")
    ]


def test_the_parts_of_a_run(whole):
    folder, events, joins = whole
    steps = Counter(event.partition(" in ")[2] for event in events if event.startswith("step"))
    models = [f"stage_{stage}_model_{model}" for stage in (1, 2) for model in (1, 2)]
    assert steps == dict.fromkeys([*models, "run"], 2)
    left = sorted(p.name for p in (folder / "soups").rglob("*") if "events" not in p.name)
    assert left == sorted([*models, *[log.LOG] * 4])  # the weights of the stages are gone

    (before, start, tuned, share), first = joins[0]
    assert before is start and share == 0.7 and len(tuned) == 2
    for path, value in start.items():
        mean = value + ((tuned[0][path] - value) + (tuned[1][path] - value)) / 2
        np.testing.assert_allclose(first[path], 0.3 * value + 0.7 * mean, rtol=2e-5, atol=1e-7)
    assert joins[1][0][0] is first and joins[1][0][1] is start
    assert any(not np.array_equal(tuned[0][p], tuned[1][p]) for p in start)  # other orders, crops

    final, joined = export.read_tuned(folder), joins[1][1]
    moved = {path for path in joined if not np.array_equal(final[path], joined[path])}
    assert moved == {path for path in joined if path.startswith("head/")} != set()


def test_the_finished_run_is_one_of_full_tuning(whole, tmp_path):
    folder, _, _ = whole
    metrics = json.loads((folder / "metrics.json").read_text())
    config = config_of("debug,tuner=full", train__optimizer="adamw", train__ema=0.99)
    plain = train_and_test(config, tmp_path)
    assert metrics["steps"] == plain["steps"] == 2
    assert {k: metrics[k] for k in ("tuned_params", "head_params", "frozen_params")} == {
        k: plain[k] for k in ("tuned_params", "head_params", "frozen_params")
    }
    assert export.read_tuned(folder).keys() == export.read_tuned(tmp_path).keys()
    records = [log.read_log(path)[-1].seconds for path in folder.glob(f"soups/*/{log.LOG}")]
    assert metrics["seconds"] > sum(records) > 0  # the time of all parts


@pytest.mark.slow
def test_adapters_can_be_joined(tmp_path):
    """Their leaves are matrices, vectors and single numbers; entries of aft have frozen places."""
    config = config_of(
        "debug,method=lt_soups,tuner=adaptformer+aft", soups__factors="1", train__lr=0.01,
        data__val_share=0.3, checkpoint__best=True,
    )  # fmt: skip
    found = train_and_test(config, tmp_path)
    leaves = export.read_tuned(tmp_path)
    assert found["steps"] == 2 and {leaf.ndim for leaf in leaves.values()} >= {0, 1, 2}
    assert {"adaptformer", "aft"} <= {part for path in leaves for part in path.split("/")}
    assert all(np.isfinite(leaf).all() for leaf in leaves.values())


@pytest.mark.slow
def test_another_config_and_a_damaged_file_are_told(whole, tmp_path):
    config = config_of()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        watch(patch, kill_at("after joined"))
        train_and_test(config, tmp_path)
    with pytest.raises(UserError, match="holds a run of another config:\n *soups.join: 0.7 -> 0.5"):
        train_and_test(config_of(soups__join=0.5), tmp_path)
    file = tmp_path / "soups" / "joined" / "adapters.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(UserError, match="joined/adapters.safetensors is damaged.*Delete .*joined"):
        train_and_test(config, tmp_path)
    shutil.rmtree(file.parent)
    train_and_test(config, tmp_path)
    same_run(tmp_path, whole[0])
