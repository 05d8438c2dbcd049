"""What a training step costs: `python -m lift_jax.bench --config=configs/inat.py --classes=8142`.

Times the step on the devices here, with random weights and images: images/s, share of the
hardware's peak, memory. With --aot --devices=256 nothing is run: the step is compiled for so many
simulated devices, and what each would hold, compute and send is printed, so that a job does not
fail after hours in a queue. With --only=data it times the way from files to views instead, and
tells how long training waits for data.
"""

import io
import os
import tempfile
import time
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from lift_jax import build, command, cost, log, losses, optim, state, steps, train, weights
from lift_jax import config as config_lib
from lift_jax import mesh as mesh_lib
from lift_jax.config_flag import chosen_config, parse_flags
from lift_jax.data import speed
from lift_jax.errors import UserError, fail
from lift_jax.models import tree, tuners
from lift_jax.models.backbone import Classifier, Vision
from lift_jax.models.heads import HEADS
from lift_jax.models.resnet import ResNet, ResNetConfig
from lift_jax.models.vit import VisionConfig, VisionTransformer

ONLY = flags.DEFINE_enum("only", "step", ["step", "data"], "What to time.")
CLASSES = flags.DEFINE_integer("classes", 0, "Of the data set.")
IMAGES = flags.DEFINE_integer("images", 0, "In its training split, for the time of an epoch.")
AOT = flags.DEFINE_bool("aot", False, "Compile for simulated devices, without running.")
DEVICES = flags.DEFINE_integer("devices", 8, "With --aot: how many.")
STEPS = flags.DEFINE_integer("steps", 20, "Without --aot: timed steps, after two that are not.")

# Sizes of backbones that need not be here to be compiled.
SIZES = {
    "clip_vit_b32": VisionConfig(224, 32, 768, 12, 12, 3072),
    "clip_vit_b16": VisionConfig(224, 16, 768, 12, 12, 3072),
    "clip_vit_l14": VisionConfig(224, 14, 1024, 24, 16, 4096),
    "clip_vit_l14_336": VisionConfig(336, 14, 1024, 24, 16, 4096),
}
# Dense bfloat16 TFLOP/s of a device, as its maker states.
PEAKS = {"H100": 989, "H200": 989, "A100": 312, "TPU v5 lite": 197, "TPU v5": 459, "TPU v6": 918}
# The cost model: devices, TFLOP/s of each and GB/s of its links, as their makers state, and the
# share of the first that training reaches (an H100 with ViT-B/16 and batches of 128: 0.29).
MACHINES = {
    "1 x H100": (1, 989, 450), "8 x H100": (8, 989, 450), "v5e-16": (16, 197, 200),
    "v5e-256": (256, 197, 200),
}  # fmt: skip
REACHED = 0.3


@dataclass(frozen=True)
class Problem:
    """A step to be compiled and all that goes into it, as shapes with their shardings."""

    step: Any  # jitted
    state: state.State
    frozen: dict[str, Any]
    batch: dict[str, Any]
    mesh: Mesh


def problem(config: ConfigDict, vision: Vision, classes: int, bfloat16: bool) -> Problem:
    """The training step of a config on a backbone of these sizes, without any weights.

    Raises UserError for a batch that the devices do not share evenly, and for classifiers on texts.
    """
    names = build.check(config)
    kind = config_lib.head_kind(config)
    if kind == "text":
        raise UserError(
            "head.kind is 'text': the bench times classifiers with weights of their own."
        )
    mesh = mesh_lib.make(**config.mesh)
    mesh_lib.check_batch(mesh, "train.batch", config.train.batch, config.train.accum)
    options = tuners.Options.of(config.tuner)
    resnet = isinstance(vision, ResNetConfig)

    def model() -> Classifier:
        rngs = nnx.Rngs(0)
        if isinstance(vision, ResNetConfig):
            visual = ResNet(vision, rngs=rngs)
        else:
            visual = VisionTransformer(vision, rngs=rngs)
            visual.remat = config.train.remat
        tuners.attach(visual, names, classes, rngs=rngs, **asdict(options))
        return Classifier(visual, HEADS[kind](jnp.zeros((classes, vision.width), jnp.float32)))

    graph, leaves = tree.flatten(nnx.eval_shape(model))
    blocks = 0 if isinstance(vision, ResNetConfig) else vision.layers
    mask = state.trainable_mask(
        leaves, tuners.trainable(names, blocks, options.partial, options.layers, resnet=resnet)
    )

    def shape(leaf: Any, sharding: Any, dtype: Any = None) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, dtype or leaf.dtype, sharding=sharding)

    frozen_dtype = jnp.bfloat16 if bfloat16 else jnp.float32
    tuned = {path: leaf for path, leaf in leaves.items() if mask[path]}
    frozen = {
        path: shape(leaf, mesh_lib.frozen_sharding(mesh, path, leaf.shape), frozen_dtype)
        for path, leaf in leaves.items()
        if not mask[path]
    }
    optimizer = optim.sgd(lambda step: config.train.lr, 0.9, config.train.weight_decay)
    plain = {path: jax.ShapeDtypeStruct(leaf.shape, jnp.float32) for path, leaf in tuned.items()}
    whole = jax.eval_shape(lambda tuned: state.create(tuned, optimizer), plain)
    counts = np.ones(classes)
    loss = losses.make(config.loss.name, counts, **config_lib.loss_options(config))
    rows, res = config.train.batch, vision.resolution
    kinds = {"image": ((rows, res, res, 3), "uint8"), "label": ((rows,), "int32"),
             "mask": ((rows,), "bool")}  # fmt: skip
    sharding = mesh_lib.batch_sharding(mesh)
    return Problem(
        step=steps.make_train_step(
            graph, vision, loss, optimizer, mesh, config.train.accum, remat=config.train.remat
        ),
        state=jax.tree.map(shape, whole, state.shardings(whole, mesh)),
        frozen=frozen,
        batch={
            name: jax.ShapeDtypeStruct(size, jnp.dtype(dtype), sharding=sharding)
            for name, (size, dtype) in kinds.items()
        },
        mesh=mesh,
    )


def ahead_of_time(
    config: ConfigDict, vision: Vision, classes: int, images: int, console: Console
) -> None:
    """Compiles for the devices that there seem to be, and prints what that tells."""
    begin = time.monotonic()
    made = problem(config, vision, classes, bfloat16=True)
    told = cost.compile_step(made.step, made.state, made.frozen, made.batch, console)
    console.print(
        f"{config.model.backbone}, {config.tuner.name}, {classes:,} classes, batch "
        f"{config.train.batch} on {dict(made.mesh.shape)}: compiled in "
        f"{time.monotonic() - begin:.0f} s, nothing was run. The compiler is the CPU's, which "
        "computes bfloat16 in float32: on an accelerator activations take about half."
    )
    flops, sent = told.flops * made.mesh.size / config.train.batch, told.sent
    if not images:
        return
    table = Table(title=f"An epoch of {images:,} images: a model, not a measurement")
    for column in ("machine", "TFLOP/s of a device", "GB/s", "images/s", "seconds", "hours"):
        table.add_column(column, justify="left" if column == "machine" else "right")
    for name, (count, peak, link) in MACHINES.items():
        step = config.train.batch * flops / (count * peak * 1e12 * REACHED)
        step += 2 * sent / (link * 1e9) * (count > 1)
        rate = config.train.batch / step
        table.add_row(
            name, str(peak), str(link), f"{rate:,.0f}", f"{images / rate:,.1f}",
            f"{images / rate / 3600:.4f}",
        )  # fmt: skip
    console.print(table)
    console.print(
        f"The model: {flops / 1e9:.1f} GFLOP an image, forward and backward, at {REACHED:.0%} of "
        f"the peak; then {cost.mega(sent)} over the links, there and back; data arrive in time."
    )


def on_devices(
    config: ConfigDict, vision: Vision, classes: int, count: int, console: Console
) -> float:
    """Times the step on the devices here; returns images per second."""
    made = problem(config, vision, classes, build.uses_bfloat16(config))
    rng = np.random.default_rng(0)
    noise = 0.02 * rng.standard_normal(2**20, np.float32)  # repeated: drawing all is slow

    def fill(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        if leaf.dtype == jnp.uint8:
            array = rng.integers(0, 256, leaf.shape, np.uint8)
        elif jnp.issubdtype(leaf.dtype, jnp.floating):
            array = np.resize(noise, leaf.shape).astype(leaf.dtype)
        else:
            array = np.ones(leaf.shape, leaf.dtype)
        return mesh_lib.put(array, leaf.sharding)

    current, frozen, batch = jax.tree.map(fill, (made.state, made.frozen, made.batch))
    told = cost.compile_step(made.step, current, frozen, batch, console)
    for steps_timed in (2, count):  # the first ones also load and allocate
        begin = time.monotonic()
        for _ in range(steps_timed):
            current, loss = told.step(current, frozen, batch)
        jax.block_until_ready(loss)
    best = (time.monotonic() - begin) / count
    rate = config.train.batch / best
    kind = jax.devices()[0].device_kind
    peak = next((value for name, value in PEAKS.items() if name in kind), None)
    share = f", {told.flops / best / 1e12 / peak:.1%} of its peak" if peak else ""
    console.print(
        f"{config.model.backbone} on {made.mesh.size} x {kind}: {1000 * best:.1f} ms a step of "
        f"{config.train.batch}, {rate:,.1f} images/s, {told.flops / best / 1e12:.2f} TFLOP/s a "
        f"device{share}."
    )
    stats = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        console.print(f"Peak memory: {cost.mega(stats['peak_bytes_in_use'])}.")
    return rate


def vision_sizes(config: ConfigDict) -> Vision:
    """The sizes of the config's image tower. Raises UserError if they are not known here."""
    name = config.model.backbone
    sizes = SIZES[name] if name in SIZES else weights.sizes(name).vision
    if config.model.resolution and isinstance(sizes, VisionConfig):
        sizes = VisionConfig(**(asdict(sizes) | {"resolution": config.model.resolution}))
    return sizes


def waiting(console: Console) -> dict[str, float]:
    """Trains two configs for some steps; prints and returns the share of time without a batch."""
    from configs import demo, inat  # beside the config files; a step needs none of them

    shares = {}
    for name, config, epochs in (
        ("demo.py", demo.get_config(), 4),
        ("inat.py:debug", inat.get_config("debug"), 26),
    ):
        config.train.epochs = epochs  # 52 steps of either
        config.checkpoint.every_steps = 10**6
        with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
            found = train.run(config, folder)
            read = log.read_log(Path(folder) / log.LOG)
        shares[name] = read[-1].wait
        console.print(
            f"configs/{name}: {shares[name]:.1%} of the step's time waiting for data (the last "
            f"20 of {len(read)} steps; {read[-1].images_per_second:,.0f} images/s, a network of "
            f"{found['frozen_params']:,} weights)."
        )
    return shares


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise SystemExit(fail(f"unexpected arguments: {' '.join(argv[1:])}"))
    if AOT.value:  # before anything asks for devices
        os.environ["JAX_PLATFORMS"] = "cpu"
        os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={DEVICES.value}"
        jax.config.update("jax_platforms", "cpu")
    logging.set_verbosity(logging.WARNING)
    console = Console(soft_wrap=True, highlight=False)
    with command.told():
        if ONLY.value == "data":
            speed.measure(console)
            waiting(console)
            return
        config = chosen_config(
            "Give a config: python -m lift_jax.bench --config=configs/inat.py --classes=8142"
        )
        if CLASSES.value < 2:
            raise UserError("Give the number of classes: --classes=8142.")
        vision = vision_sizes(config)
        if AOT.value:
            ahead_of_time(config, vision, CLASSES.value, IMAGES.value, console)
        else:
            on_devices(config, vision, CLASSES.value, STEPS.value, console)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
