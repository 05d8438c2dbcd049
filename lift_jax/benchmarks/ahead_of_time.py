"""Compilation of the training step for simulated devices, and an estimate of an epoch's time."""

import time

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from lift_jax.benchmarks.step import make_problem
from lift_jax.models.backbone import Vision
from lift_jax.models.blocks import backward
from lift_jax.models.precision import Precision
from lift_jax.parallel import cost
from lift_jax.settings.schema import Settings

# The cost model: devices, TFLOP/s of each and GB/s of its links, as their makers state, and the
# share of the first that training reaches (an H100 with ViT-B/16 and batches of 128: 0.29).
MACHINES = {
    "1 x H100": (1, 989, 450), "8 x H100": (8, 989, 450), "v5e-16": (16, 197, 200),
    "v5e-256": (256, 197, 200),
}  # fmt: skip
REACHED = 0.3
HALF = Precision.of("bfloat16", "float32")  # as much memory as float16, as on a TPU


def estimate(
    settings: Settings, vision: Vision, classes: int, images: int, console: Console
) -> None:
    """Compiles the step for the devices that JAX sees; prints what each holds and sends.

    If `images` is not 0, also prints an estimate of an epoch's time on common machines. Raises
    UserError as `make_problem`.
    """
    begin = time.monotonic()
    made = make_problem(settings, vision, classes, HALF)
    with backward.lean(False):  # as on an accelerator
        compiled = cost.compile_step(made.step, made.state, made.frozen, made.batch, console)
    console.print(
        f"{settings.model.backbone}, {settings.tuner.name}, {classes:,} classes, batch "
        f"{settings.train.batch} on {dict(made.mesh.shape)}: compiled in "
        f"{time.monotonic() - begin:.0f} s, nothing was run. The compiler is the CPU's, which "
        "computes bfloat16 in float32: on an accelerator activations take less."
    )
    flops, sent = compiled.flops * made.mesh.size / settings.train.batch, compiled.sent
    if not images:
        return
    table = Table(title=f"An epoch of {images:,} images: a model, not a measurement")
    for column in ("machine", "TFLOP/s of a device", "GB/s", "images/s", "seconds", "hours"):
        table.add_column(column, justify="left" if column == "machine" else "right")
    for name, (count, peak, link) in MACHINES.items():
        step = settings.train.batch * flops / (count * peak * 1e12 * REACHED)
        step += 2 * sent / (link * 1e9) * (count > 1)
        rate = settings.train.batch / step
        table.add_row(
            name, str(peak), str(link), f"{rate:,.0f}", f"{images / rate:,.1f}",
            f"{images / rate / 3600:.4f}",
        )  # fmt: skip
    console.print(table)
    console.print(
        f"The model: {flops / 1e9:.1f} GFLOP an image, forward and backward, at {REACHED:.0%} of "
        f"the peak; then {decimal(sent)} over the links, there and back; data arrive in "
        "time."
    )
