"""Tests of whole runs, as a user starts them: every config, kills, 1 and 8 devices."""

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.paths import ROOT
from support.runs import saved_leaves, train_and_test
from support.small_sets import draw_noise

import lift_jax
from lift_jax.errors import UserError
from lift_jax.parallel import mesh
from lift_jax.training.checkpoint import contents

pytestmark = pytest.mark.slow  # whole runs, or many compilations

CONFIGS = ("base", "demo", "folder", "cifar100", "imagenet_lt", "places_lt", "inat")
TIMING = ("seconds", "images_per_second")
# 3 epochs of two batches: enough steps to be killed at three moments
LONGER = ("--config.train.epochs=3",)


def config_of(name: str, argument: str = "debug", **changes):
    config = importlib.import_module(f"configs.{name}").get_config(argument)
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config


def start(workdir: Path, *flags: str, config="configs/demo.py:debug", devices=1):
    """Starts the command in a process of its own."""
    flags_of_xla = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"XLA_FLAGS": flags_of_xla}  # the last of two counts holds
    command = [sys.executable, "-m", "lift_jax.main", f"--config={config}"]
    return subprocess.Popen(
        [*command, f"--workdir={workdir}", *flags], cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def results(workdir: Path) -> dict:
    found = json.loads((workdir / "metrics.json").read_text())
    return {key: value for key, value in found.items() if key not in TIMING}


def logged(workdir: Path) -> list[dict]:
    lines = (workdir / "log.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if k in ("step", "loss", "lr")} for line in lines
    ]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Returns an uninterrupted run on one device."""
    workdir = tmp_path_factory.mktemp("straight")
    process = start(workdir, *LONGER)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return workdir, out


def test_a_run_writes_its_folder_and_prints_the_table(straight):
    workdir, out = straight
    for name in ("config.json", "log.jsonl", "metrics.json", "per_class.csv", "report.html"):
        assert (workdir / name).stat().st_size > 0, name
    for words in ("zero-shot", "LIFT+", "LIFT+ with TTE", "many", "medium", "few"):
        assert words in out
    found = json.loads((workdir / "metrics.json").read_text())
    summary = "overall mean many medium few hmean gmean worst macro_f1 ece images".split()
    for row in ("zero_shot", "test", "test_tte"):
        assert list(found[row]) == summary
        assert found[row]["images"] == 31
    assert found["zero_shot"]["many"] is None  # no class has more than 100 images
    assert found["steps"] == 6
    lines = (workdir / "per_class.csv").read_text().splitlines()
    assert lines[0] == "class,name,train_images,group,test_images,zero_shot,test,test_tte"
    assert lines[1].startswith("0,red,25,medium,5,") and len(lines) == 8


def test_killed_three_times_it_ends_as_if_it_had_not_been(straight, tmp_path):
    expected, _ = straight
    log = tmp_path / "log.jsonl"
    for lines in (1, 3, 5):
        process = start(tmp_path, *LONGER)
        deadline = time.monotonic() + 200
        while not (log.exists() and log.read_text().count("\n") >= lines):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    process = start(tmp_path, *LONGER)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "Continuing" in out or "finished" in out
    assert results(tmp_path) == results(expected)
    assert logged(tmp_path) == logged(expected)
    found, wanted = saved_leaves(tmp_path), saved_leaves(expected)
    assert found.keys() == wanted.keys() and len(found) > 10
    for path, leaf in wanted.items():
        assert np.array_equal(found[path], leaf), path


@pytest.mark.parametrize("changes", [
    {}, {"train__accum": 4}, {"train__remat": "blocks"},
    {"mesh__strategy": "fsdp", "mesh__data": 4, "mesh__model": 2},
    {"mesh__strategy": "fsdp", "mesh__model": 8, "train__remat": "dots", "train__accum": 2},
], ids=str)  # fmt: skip
def test_eight_devices_give_the_losses_and_metrics_of_one(changes, straight, tmp_path, monkeypatch):
    monkeypatch.setattr(mesh, "LARGE_HEAD", 1)  # under fsdp the head is cut as well
    expected, _ = straight
    found = train_and_test(config_of("demo", train__epochs=3, **changes), tmp_path)
    np.testing.assert_allclose(
        [record["loss"] for record in logged(tmp_path)],
        [record["loss"] for record in logged(expected)],
        rtol=1e-5,
    )
    wanted = results(expected)
    for row in ("zero_shot", "test", "test_tte"):
        assert found[row] == wanted[row]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("method", ["lift_plus", "lift"])
def test_every_config_runs_in_debug(name, method, tmp_path):
    found = train_and_test(config_of(name, f"debug,method={method}"), tmp_path)
    assert found["steps"] == 2 and found["test_tte"]["images"] == 31


@pytest.mark.parametrize("changes", [
    {"tuner__name": "none"}, {"tuner__name": "full"}, {"tuner__partial": 1}, {"train__accum": 4},
    {"model__precision": "bfloat16"}, {"model__precision": "float16", "train__accum": 2},
    {"head__init": "none"}, {"loss__name": "ce"},
    {"test__tte": False}, {"mesh__strategy": "fsdp", "mesh__model": 2}, {"data__workers": 1},
    {"train__remat": "blocks"}, {"train__remat": "dots", "train__accum": 2},
], ids=str)  # fmt: skip
def test_options_run(changes, tmp_path):
    found = train_and_test(config_of("demo", **changes), tmp_path)
    assert found["steps"] == 2
    assert (found["test_tte"] is None) == (changes == {"test__tte": False})
    if changes == {"tuner__name": "none"}:
        assert found["tuned_params"] == 0


@pytest.mark.parametrize(("precision", "residual"), [("float16", "float32"), ("bfloat16", "same")])
def test_a_run_in_half_precision_continues(precision, residual, tmp_path):
    """A run whose config knew no model.residual, as in 0.1.0, goes on as it began ("same")."""
    new = config_of("demo", train__epochs=2, model__precision=precision)
    begun = config_of("demo", train__epochs=2, model__precision=precision)
    if residual == "same":
        with begun.unlocked():
            del begun.model.residual
    straight, other = tmp_path / "straight", tmp_path / "other"
    train_and_test(
        config_of("demo", train__epochs=2, model__precision=precision, model__residual=residual),
        straight,
    )
    train_and_test(begun, other)
    shutil.rmtree(other / "checkpoints" / "4")
    (other / "metrics.json").unlink()
    train_and_test(new, other)
    found, wanted = saved_leaves(other), saved_leaves(straight)
    assert all(np.array_equal(found[path], leaf) for path, leaf in wanted.items())
    assert results(other) == results(straight)
    images = np.zeros((2, 32, 32, 3), np.uint8)
    np.testing.assert_array_equal(
        lift_jax.Predictor(other).logits(images), lift_jax.Predictor(straight).logits(images)
    )


def test_modes(tmp_path):
    config = config_of("demo")
    with pytest.raises(UserError, match="no checkpoint to evaluate"):
        train_and_test(config, tmp_path, "evaluate")
    zero = train_and_test(config, tmp_path, "zero_shot")
    assert zero["test"] is None and zero["zero_shot"]["images"] == 31
    trained = train_and_test(config, tmp_path)
    assert trained["zero_shot"] == zero["zero_shot"]
    again = train_and_test(config_of("demo", test__tte=False), tmp_path, "evaluate")
    assert again["test"] == trained["test"] and again["test_tte"] is None
    (tmp_path / "log.jsonl").unlink()  # only the timing comes from it
    assert train_and_test(config, tmp_path, "evaluate")["test"] == trained["test"]
    with pytest.raises(UserError, match="holds a trained run"):
        train_and_test(config, tmp_path, "zero_shot")
    with pytest.raises(UserError, match=r"train\.lr: 0\.02 -> 0\.5"):
        train_and_test(config_of("demo", train__lr=0.5), tmp_path)
    with pytest.raises(UserError, match="other training images"):
        changed = config_of("demo")
        about = tmp_path / "checkpoints" / "2" / "about" / "metadata"
        text = json.loads(about.read_text())
        text["data_summary"]["counts"][0] += 1
        sums = text.pop(contents.CHECKSUMS)
        sums[contents.ABOUT] = contents.about_checksum(text)
        text[contents.CHECKSUMS] = sums
        about.write_text(json.dumps(text))
        train_and_test(changed, tmp_path)


def test_a_loss_that_is_not_finite_before_any_checkpoint(tmp_path):
    optimizer = {"train__optimizer": "adamw", "train__lr": 1e30}
    with pytest.raises(UserError, match=r"Training stopped\. There is no checkpoint yet\. Lower"):
        train_and_test(
            config_of("demo", train__epochs=3, checkpoint__every_steps=6, **optimizer), tmp_path
        )


def test_a_loss_that_is_not_finite_stops_and_names_the_last_good_checkpoint(tmp_path):
    config = config_of("demo", train__lr=1e30, train__epochs=3)
    with pytest.raises(UserError, match=r"is (nan|inf).*last good checkpoint is .*checkpoints/\d"):
        train_and_test(config, tmp_path)
    losses = {record["step"]: record["loss"] for record in logged(tmp_path)}
    assert np.isfinite(list(losses.values())).all()
    for path, leaf in saved_leaves(tmp_path).items():
        assert np.isfinite(leaf).all(), path


def test_a_folder_of_images_and_an_unreadable_one(tmp_path):
    root = tmp_path / "photos"
    for name in ("cat", "dog"):
        draw_noise(root / name, 9)
    changes = {"data__name": "folder", "data__root": str(root)}
    found = train_and_test(config_of("folder", **changes), tmp_path / "run")
    assert found["test"]["images"] == 4
    for path in root.glob("*/*.png"):
        path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match=r"(cat|dog)/\d\.png"):
        train_and_test(config_of("folder", **changes), tmp_path / "run2")


@pytest.mark.parametrize("head", ["class_mean", "linear_probe"])
def test_unreadable_images_are_skipped_by_the_head_as_well(tmp_path, head):
    root = tmp_path / "photos"
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            draw_noise(root / split / name, 3)
    bad = root / "train" / "cat" / "1.png"
    bad.write_bytes(bad.read_bytes()[:300])
    changes = {"data__name": "folder", "data__root": str(root), "data__on_bad_image": "skip"}
    changes |= {"head__init": head, "head__shots": 3}
    found = train_and_test(config_of("folder", **changes), tmp_path / "run")
    assert found["test"]["images"] == 6
    listed = (tmp_path / "run" / "bad_images.csv").read_text().splitlines()[1:]
    assert len(listed) == 1 and str(bad) in listed[0]

    for path in (root / "test").glob("*/*.png"):
        path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match="None of the 6 test images can be read"):
        train_and_test(config_of("folder", **changes), tmp_path / "run2")
    assert not list((tmp_path / "run2").rglob("checkpoints/*"))


def test_a_run_of_a_version_without_a_setting_goes_on_as_it_began(tmp_path):
    """Names that are codes gave prompts before data.clean_names; such a run keeps them."""
    for label in ("0", "1"):
        for i in range(4):
            (tmp_path / "data" / label).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 50), (60 * i, 0, 0)).save(tmp_path / "data" / label / f"{i}.png")
    now = config_of("folder", data__root=str(tmp_path / "data"), data__name="folder")
    before = config_of("folder", data__root=str(tmp_path / "data"), data__name="folder")
    with before.unlocked():
        del before.data["clean_names"]
    first = train_and_test(before, tmp_path / "run")
    about = json.loads((tmp_path / "run" / "config.json").read_text())
    assert first["zero_shot"] and "clean_names" not in about["data"]
    again = train_and_test(now, tmp_path / "run", "evaluate")
    assert again["zero_shot"] == first["zero_shot"] and again["test"] == first["test"]
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == about
    assert lift_jax.Predictor(tmp_path / "run").class_names == ("0", "1")
    assert train_and_test(now, tmp_path / "new")["zero_shot"] is None


def test_classes_without_images_are_named(tmp_path, capsys):
    for i in range(4):
        Image.new("RGB", (40, 50), (60 * i, 0, 0)).save(tmp_path / f"{i}.png")
    (tmp_path / "train.txt").write_text("0.png 0\n1.png 2\n")
    (tmp_path / "test.txt").write_text("2.png 0\n3.png 1\n")
    (tmp_path / "names.txt").write_text("cat\ndog\nred_fox\n")
    lists = {key: f"{key.partition('_')[0]}.txt" for key in ("train_list", "test_list")}
    changes = {f"data__{key}": str(tmp_path / name) for key, name in lists.items()}
    changes |= {"data__class_names": str(tmp_path / "names.txt"), "data__root": str(tmp_path)}
    found = train_and_test(config_of("inat", data__name="list", **changes), tmp_path / "run")
    assert np.isfinite(logged(tmp_path / "run")[-1]["loss"])
    out = " ".join(capsys.readouterr().out.split())
    assert "without a training image (1 of 3), which count as the smallest in the loss: dog" in out
    assert "without a test image (1 of 3), left out of the class means: red_fox" in out
    assert found["test"]["images"] == 2
    rows = (tmp_path / "run" / "per_class.csv").read_text().splitlines()
    assert rows[3] == "2,red_fox,1,few,0,,,"


@pytest.mark.parametrize(("changes", "message"), [
    ({"model__backbone": "clip_vit_b61"}, "clip_vit_b16"),
    ({"model__backbone": "no/such/folder"}, "no/such/folder"),
    ({"data__name": "folder", "data__root": "/no/where"}, "/no/where"),
    ({"data__name": "fodler"}, "folder"),
    ({"tuner__name": "adaptfromer"}, "adaptformer"),
    ({"loss__name": "al"}, "la"),
    ({"head__prompt": "a photo"}, "head.prompt"),
    ({"train__batch": 12}, "train.batch is 12.*give 16"),
    ({"train__epochs": 0}, "train.epochs is 0"),
    ({"seed": -1}, "seed is -1"),
    ({"mesh__data": 3}, "mesh.data=3 x mesh.model=1 is not the number of devices, 8"),
    ({"mesh__model": 2}, "mesh.strategy=fsdp as well"),
    ({"mesh__strategy": "fdsp"}, "fsdp"),
    ({"train__remat": "block"}, "blocks"),
], ids=str)  # fmt: skip
def test_mistakes_are_one_message(changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        train_and_test(config_of("demo", **changes), tmp_path)


@pytest.mark.parametrize(("flags", "words"), [
    (["--config=configs/demo.py:debug", "--config.train.epoch=3"], ["epoch", "epochs"]),
    (["--config=configs/demo.py:debgu"], ["debgu", "debug"]),
    (["--config=configs/demo.py:method=lfit"], ["lfit", "lift"]),
    (["--config=configs/domo.py"], ["configs/domo.py"]),
    (["--config=configs/demo.py:debug", "--config.train.lr=fast"], ["train.lr", "fast"]),
    (["--config=configs/demo.py:debug", "--mode=evalute"], ["evalute", "evaluate"]),
    (["--config=configs/demo.py:debug", "--wordkir=x"], ["wordkir"]),
    (["--config=configs/demo.py:debug", "stray"], ["stray"]),
    ([], ["--config", "--workdir"]),
], ids=str)  # fmt: skip
def test_mistakes_in_flags_are_one_message(flags, words, tmp_path):
    command = [sys.executable, "-m", "lift_jax.main", f"--workdir={tmp_path}/run", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr + done.stdout
    for word in words:
        assert word in done.stderr
