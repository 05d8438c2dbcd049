"""The bench: what it reads off a compiled step, and that both of its ways run."""

import re
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from rich.console import Console

from configs import folder
from lift_jax import bench, log, steps, train
from lift_jax.data import loader, speed
from lift_jax.errors import UserError
from lift_jax.models.vit import VisionConfig

VISION = VisionConfig(resolution=32, patch=8, width=64, layers=2, heads=2, mlp=256)


def config_of(**changes):
    config = folder.get_config("debug")
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config


def compiled(**changes):
    made = bench.problem(config_of(**changes), VISION, 24, bfloat16=False)
    return made, made.step.lower(made.state, made.frozen, made.batch).compile()


def test_only_the_tuned_gradient_crosses_the_network():
    made, program = compiled(mesh__data=8)
    gradient = sum(4 * np.prod(leaf.shape) for leaf in made.state.tuned.values())
    sent = bench.collective_bytes(program.as_text())
    assert set(sent) == {"all-reduce"}
    assert gradient <= sent["all-reduce"] < gradient + 1000


def test_frozen_weights_are_cut_over_the_model_axis():
    whole, _ = compiled(mesh__data=8)
    cut, _ = compiled(mesh__data=1, mesh__model=8)
    frozen = bench.device_bytes(whole.frozen)
    assert frozen == sum(4 * np.prod(leaf.shape) for leaf in whole.frozen.values())
    assert frozen / 8 <= bench.device_bytes(cut.frozen) < frozen / 8 + 0.05 * frozen
    assert bench.device_bytes(cut.state) == bench.device_bytes(whole.state)


def test_bytes_of_collectives_by_hand():
    hlo = """
      %a = f32[3,5]{1,0} all-reduce(%x), replica_groups={}
      %b = (f32[], bf16[7]{0}) all-reduce(%y, %z), to_apply=%add
      %c = (f32[2]{0}, f32[16]{0}) all-gather-start(%w)
      %d = f32[9]{0} add(%a, %b), metadata={op_name="all-reduce"}
    """
    assert bench.collective_bytes(hlo) == {"all-reduce": 60 + 4 + 14, "all-gather": 72}


def test_it_times_the_step_here():
    console = Console(record=True, width=300)
    rate = bench.on_devices(config_of(mesh__data=8), VISION, 7, 3, console)
    said = console.export_text()
    assert f"{rate:,.1f} images/s" in said and "8 x cpu" in said
    assert "Per device: frozen 0.4" in said


def test_mistakes():
    with pytest.raises(UserError, match="train.batch is 36"):
        bench.problem(config_of(train__batch=36, mesh__data=8), VISION, 7, bfloat16=False)
    with pytest.raises(UserError, match="head.kind is 'text'"):
        bench.problem(config_of(tuner__name="coop"), VISION, 7, bfloat16=False)
    with pytest.raises(UserError, match="clip_rn50 is not on this machine"):
        bench.vision_sizes(config_of(model__backbone="clip_rn50"))
    assert bench.vision_sizes(config_of(model__backbone="clip_vit_l14")).patch == 14
    sizes = bench.vision_sizes(config_of(model__backbone="clip_vit_b16", model__resolution=384))
    assert sizes.resolution == 384
    assert jax.device_count() == 8


def test_ahead_of_time():
    """In a process of its own, for it chooses the number of devices."""
    done = subprocess.run(
        [sys.executable, "-m", "lift_jax.bench", "--config=configs/inat.py:debug", "--aot",
         "--devices=16", "--classes=7", "--images=437513"],
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for words in ("{'data': 16, 'model': 1}", "nothing was run", "all-reduce", "v5e-256"):
        assert words in done.stdout


def test_ways_of_reading(monkeypatch):
    """Few images, for what is told; the ratios are for a quiet machine."""
    monkeypatch.setattr(speed, "COUNT", 2)
    console = Console(record=True, width=150)
    ratios = speed.measure(console)
    said = console.export_text()
    assert "data.decode=exact: the pixels of Pillow" in said
    assert re.search(r"data.decode=fast: differs on crops of two photographs by [123]\.", said)
    assert "prepared, short side 256: differs on these images by" in said
    assert list(ratios) == [
        "plain Pillow, float32", "data.decode=exact", "data.decode=fast",
        "prepared, short side 256", "float32 on the host", "bytes, normalised on the device",
    ]  # fmt: skip
    assert ratios["prepared, short side 256"] > 1.5


def test_the_share_of_waiting_is_that_of_the_device(monkeypatch, tmp_path):
    """A loader that takes longer than the step, and one that takes as long behind it."""
    config = config_of(train__epochs=12, checkpoint__every_steps=100, test__tte=False)  # 24 steps
    config.head.init = "none"
    make, batches = steps.make_train_step, loader.train_batches

    def waited(read, step):
        def slow_batches(*args, **options):
            for batch in batches(*args, **options):
                time.sleep(read)
                yield batch

        def slow_step(*args):
            inner = make(*args)

            def run(*inputs):
                state, loss = inner(*inputs)
                return state, Slow(loss, step)

            return run

        monkeypatch.setattr(loader, "train_batches", slow_batches)
        monkeypatch.setattr(steps, "make_train_step", slow_step)
        folder = tmp_path / f"{read}_{step}"
        train.run(config, folder)
        return log.read_log(folder / log.LOG)[-1].wait

    assert waited(0.1, 0.0) > 0.6
    assert waited(0.05, 0.1) < 0.3


class Slow:
    """A loss that the device has only a while later."""

    def __init__(self, loss, seconds):
        self.loss, self.seconds = loss, seconds

    def __float__(self):
        time.sleep(self.seconds)
        return float(self.loss)
