"""Tests of the bench: the costs that it reads off a compiled step, and runs of both commands."""

import re
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console
from support.commands import run_command
from support.runs import train_and_test

from configs import folder
from lift_jax.benchmarks import against, data, precisions
from lift_jax.benchmarks.step import make_problem, measure, vision_sizes
from lift_jax.data import loader
from lift_jax.errors import UserError
from lift_jax.models.blocks import backward
from lift_jax.models.precision import FLOAT32
from lift_jax.models.vit.config import VisionConfig
from lift_jax.parallel import cost, mesh
from lift_jax.runs import log
from lift_jax.settings import parse
from lift_jax.training import step as step_module
from lift_jax.training.step import make_train_step

VISION = VisionConfig(resolution=32, patch=8, width=64, layers=2, heads=2, mlp=256)


def config_of(**changes):
    config = folder.get_config("debug")
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config


def compiled(**changes):
    made = make_problem(parse(config_of(**changes)), VISION, 24, FLOAT32)
    told = cost.compile_step(made.step, made.state, made.frozen, made.batch, Console(quiet=True))
    return made, told.step


def test_only_the_tuned_gradient_crosses_the_network():
    made, program = compiled(mesh__data=8)
    gradient = sum(4 * np.prod(leaf.shape) for leaf in made.state.tuned.values())
    sent = cost.collective_bytes(program.as_text())
    assert set(sent) == {"all-reduce"}
    assert gradient <= sent["all-reduce"] < gradient + 1000


def test_frozen_weights_and_a_large_head_are_cut_over_the_model_axis(monkeypatch):
    """With mesh (1, 8) a device holds an eighth and small leaves, and gathers the rest twice."""
    whole, plain = compiled(mesh__data=8)
    monkeypatch.setattr(mesh, "LARGE_HEAD", 1)
    cut, program = compiled(mesh__strategy="fsdp")
    assert dict(cut.mesh.shape) == {"data": 1, "model": 8}
    frozen = cost.device_bytes(whole.frozen)
    assert frozen == sum(4 * np.prod(leaf.shape) for leaf in whole.frozen.values())
    assert frozen / 8 <= cost.device_bytes(cut.frozen) < frozen / 8 + 0.05 * frozen
    head = 4 * 24 * 64
    held = cost.device_bytes(whole.state) - cost.device_bytes(cut.state)
    assert held == 2 * head * 7 / 8  # itself and its momentum
    saved = plain.memory_analysis().argument_size_in_bytes
    saved -= program.memory_analysis().argument_size_in_bytes
    assert saved == held + frozen - cost.device_bytes(cut.frozen)

    split = sum(4 * np.prod(leaf.shape) for leaf in cut.frozen.values() if any(leaf.sharding.spec))
    sent = cost.collective_bytes(program.as_text())
    assert set(sent) == {"all-reduce", "all-gather"}  # weights move, activations do not
    assert split + head <= sent["all-gather"] <= 2 * (split + head)
    gradient = sum(4 * np.prod(leaf.shape) for leaf in cut.state.tuned.values())
    assert gradient <= sent["all-reduce"] < gradient + 1000


def test_what_comes_out_of_a_step_lies_where_it_came_from(monkeypatch):
    monkeypatch.setattr(mesh, "LARGE_HEAD", 1)
    made, program = compiled(mesh__strategy="fsdp", mesh__model=2)
    after, _ = program.output_shardings
    assert made.state.tuned["head/weight"].sharding.spec == jax.P(None, "model")
    for leaf, place in zip(jax.tree.leaves(made.state), jax.tree.leaves(after), strict=True):
        assert place.is_equivalent_to(leaf.sharding, len(leaf.shape))


@pytest.mark.slow
def test_what_is_computed_again():
    """Recomputing blocks costs more than recomputing all but products: a forward pass at most."""
    with backward.lean(False):
        none, dots, blocks = (
            compiled(train__remat=remat)[1].cost_analysis()["flops"]
            for remat in ("none", "dots", "blocks")
        )
    assert none < dots < 1.05 * none < blocks < 1.5 * none


def flops(f, *args):
    return cost.matmul_flops(jax.make_jaxpr(f)(*args).jaxpr)


def test_flops_by_hand():
    a, b = np.ones((3, 5), np.float32), np.ones((5, 7), np.float32)
    product = 2 * 3 * 5 * 7
    assert flops(lambda a, b: jnp.exp(a @ b) + 1, a, b) == product
    assert flops(jax.grad(lambda a, b: jnp.sum((a @ b) ** 2)), a, b) == 2 * product
    assert flops(jax.jit(jax.checkpoint(lambda a, b: a @ b)), a, b) == product
    batched = np.ones((4, 3, 5), np.float32)
    assert flops(lambda x, b: jnp.einsum("zij,jk->zik", x, b), batched, b) == 4 * product
    assert flops(lambda x, b: jax.lax.map(lambda one: one @ b, x), batched, b) == 4 * product
    branches = (lambda a, b: a @ b, lambda a, b: jnp.zeros((3, 7)))
    assert flops(lambda a, b: jax.lax.switch(1, branches, a, b), a, b) in (0, product)
    assert flops(lambda i: jax.lax.switch(i, branches, a, b), 1) == product
    image, kernel = np.ones((2, 8, 8, 6), np.float32), np.ones((3, 3, 2, 9), np.float32)

    def convolve(image, kernel):
        return jax.lax.conv_general_dilated(
            image, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=3,
        )  # fmt: skip

    assert flops(convolve, image, kernel) == 2 * (2 * 8 * 8 * 9) * (3 * 3 * 2)


def test_flops_of_a_step_by_hand():
    """A step costs a forward pass, and the same again backward from the lowest tuner on."""
    made = make_problem(parse(config_of(tuner__name="none")), VISION, 24, FLOAT32)
    n, t, d, hidden = 32, 17, 64, 256
    stem = 2 * n * 16 * (3 * 8 * 8) * d
    whole = 2 * n * t * (4 * d * d + 2 * d * hidden) + 4 * n * t * t * d
    keys, cls = 2 * n * t * 2 * d * d, 2 * n * (2 * d * d + 2 * d * hidden) + 4 * n * t * d
    head = 2 * (2 * n * d * 24)  # and its gradient
    forward = stem + whole + keys + cls + head
    traced = made.step.trace(made.state, made.frozen, made.batch)
    assert cost.matmul_flops(traced.jaxpr) == forward
    accumulated = make_problem(
        parse(config_of(tuner__name="none", train__accum=4)), VISION, 24, FLOAT32
    )
    traced = accumulated.step.trace(*(getattr(made, k) for k in ("state", "frozen", "batch")))
    assert cost.matmul_flops(traced.jaxpr) == forward


def test_bytes_of_collectives_by_hand():
    hlo = """
      %a = f32[3,5]{1,0} all-reduce(%x), replica_groups={}
      %b = (f32[], bf16[7]{0}) all-reduce(%y, %z), to_apply=%add
      %c = (f32[2]{0}, f32[16]{0}) all-gather-start(%w)
      %d = f32[9]{0} add(%a, %b), metadata={op_name="all-reduce"}
    """
    assert cost.collective_bytes(hlo) == {"all-reduce": 60 + 4 + 14, "all-gather": 72}
    kinds = {"f64": 8, "s16": 2, "u8": 1, "f8e4m3fn": 1, "pred": 1, "c64": 8, "s4": 0.5, "token": 0}
    for kind, size in kinds.items():
        line = f"  %a = {kind}[6]{{0}} collective-permute(%x)"
        assert cost.collective_bytes(line) == {"collective-permute": 6 * size}, kind


def test_it_times_the_step_here():
    console = Console(record=True, width=300)
    rate = measure(parse(config_of(mesh__data=8)), VISION, 7, 3, console)
    said = console.export_text()
    assert f"{rate:,.1f} images/s" in said and "8 x cpu" in said
    assert "Per device: frozen 454.7 kB" in said


def test_it_times_the_program_of_training(monkeypatch, tmp_path):
    """Both lower the products of the head and of float32 blocks as exact."""
    lowered = {}

    def catch(name):
        def compile_step(step, *arguments):
            text = step.lower(*arguments[:3]).as_text()
            products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
            lowered[name] = (len(products), sum("HIGHEST, HIGHEST" in line for line in products))
            raise UserError("caught")

        monkeypatch.setattr(cost, "compile_step", compile_step)

    catch("training")
    changes = {"tuner__name": "lora", "head__init": "none"}
    with pytest.raises(UserError, match="caught"):
        train_and_test(config_of(data__name="fake", **changes), tmp_path / "W")
    catch("bench")
    flags = ["--config=folder:debug", "--classes=8", "--config.tuner.name=lora"]
    with pytest.raises(SystemExit):
        run_command("bench", *flags)
    assert lowered["bench"] == lowered["training"] and len({*lowered["bench"]}) == 1


def test_it_runs_both_forms_in_turn():
    """The lean step and the plain one are two programs of different memory."""
    console = Console(record=True, width=300)
    against.measure(parse(config_of(train__batch=128)), VISION, 7, 2, console)
    table = console.export_text()
    (row,) = [line for line in table.splitlines() if "training step" in line]
    assert float(re.findall(r"\d+\.\d+", row)[-1]) < 0.9 and "forward" in table


def test_it_compares_the_precisions():
    """Float16 is closer to float32 than bfloat16, whose residual stream in bfloat16 costs more."""
    console = Console(record=True, width=300)
    precisions.measure(parse(config_of(train__batch=16)), VISION, 7, 1, console)
    rows = re.findall(r"│ (\w+(?: \(same\))?) +│ +(\d\.\de[+-]\d+)", console.export_text())
    errors = {name: float(error) for name, error in rows}
    assert list(errors) == ["float32", "float16", "bfloat16", "bfloat16 (same)"]
    assert 0 == errors.pop("float32") < errors["float16"] < errors["bfloat16"] / 4
    assert errors["bfloat16"] < errors["bfloat16 (same)"]


def test_mistakes():
    with pytest.raises(UserError, match="train.batch is 36"):
        make_problem(parse(config_of(train__batch=36, mesh__data=8)), VISION, 7, FLOAT32)
    with pytest.raises(UserError, match="head.kind is 'text'"):
        make_problem(parse(config_of(tuner__name="coop")), VISION, 7, FLOAT32)
    with pytest.raises(UserError, match="clip_rn50 is not on this machine"):
        vision_sizes(parse(config_of(model__backbone="clip_rn50")).model)
    assert vision_sizes(parse(config_of(model__backbone="clip_vit_l14")).model).patch == 14
    sizes = vision_sizes(
        parse(config_of(model__backbone="clip_vit_b16", model__resolution=384)).model
    )
    assert sizes.resolution == 384
    assert jax.device_count() == 8


@pytest.mark.slow
def test_ahead_of_time():
    """The bench compiles for 16 devices, in a new process because it sets their number."""
    done = subprocess.run(
        [sys.executable, "-m", "lift_jax.bench", "--config=configs/inat.py:debug", "--aot",
         "--devices=16", "--classes=7", "--images=437513"],
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for words in ("{'data': 16, 'model': 1}", "nothing was run", "all-reduce", "v5e-256"):
        assert words in done.stdout


def test_ways_of_reading(monkeypatch):
    """The bench compares all ways of reading; few images suffice for what it prints."""
    monkeypatch.setattr(data, "COUNT", 2)
    console = Console(record=True, width=150)
    ratios = data.measure(console)
    said = console.export_text()
    for view in ("", "test view, ", "five crops, "):
        assert f"\n{view}data.decode=exact: the pixels of Pillow" in said
    assert re.search(r"data.decode=fast: differs on crops of two photographs by 0\.[3-9]", said)
    assert "prepared, short side 256: differs on these images by" in said
    assert list(ratios) == [
        "plain Pillow, float32", "data.decode=exact", "data.decode=fast",
        "prepared, short side 256", "prepared, data.decode=fast",
        "test view, plain Pillow, float32", "test view, data.decode=exact",
        "test view, data.decode=fast", "five crops, plain Pillow, float32",
        "five crops, data.decode=exact", "five crops, data.decode=fast",
        "float32 on the host", "bytes, normalised on the device",
    ]  # fmt: skip
    assert ratios["prepared, short side 256"] > 1.5


@pytest.mark.slow
def test_the_share_of_waiting_is_that_of_the_device(monkeypatch, tmp_path):
    """The share is high if loading outlasts a step, and low if it hides behind the step."""
    config = config_of(train__epochs=12, checkpoint__every_steps=100, test__tte=False)  # 24 steps
    config.head.init = "none"
    make, batches = make_train_step, loader.train_batches

    def waited(read, step):
        def slow_batches(*args, **options):
            for batch in batches(*args, **options):
                time.sleep(read)
                yield batch

        def slow_step(*args):
            return SlowStep(make(*args), step)

        monkeypatch.setattr(loader, "train_batches", slow_batches)
        monkeypatch.setattr(step_module, "make_train_step", slow_step)
        folder = tmp_path / f"{read}_{step}"
        train_and_test(config, folder)
        return log.read_log(folder / log.LOG)[-1].wait

    assert waited(0.2, 0.0) > 0.5  # low, since the machine may be busy
    assert waited(0.05, 0.1) < 0.3


class SlowStep:
    """A training step whose loss arrives late; everything else is that of the wrapped step."""

    def __init__(self, inner, seconds):
        self.inner, self.seconds = inner, seconds

    def trace(self, *inputs):
        return SlowStep(self.inner.trace(*inputs), self.seconds)

    def lower(self):
        return SlowStep(self.inner.lower(), self.seconds)

    def compile(self):
        return SlowStep(self.inner.compile(), self.seconds)

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def __call__(self, *inputs):
        state, loss = self.inner(*inputs)
        return state, Slow(loss, self.seconds)


class Slow:
    """A loss that the device returns after a delay."""

    def __init__(self, loss, seconds):
        self.loss, self.seconds = loss, seconds

    def __float__(self):
        time.sleep(self.seconds)
        return float(self.loss)
