"""Time of the training step on the devices here, with random weights and images."""

import time
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from rich.console import Console
from rich.filesize import decimal

from lift_jax.benchmarks.results import Seconds
from lift_jax.errors import UserError
from lift_jax.models import tree
from lift_jax.models.backbone import BackboneConfig, Classifier, Vision
from lift_jax.models.precision import FLOAT32, Precision
from lift_jax.models.resnet import ResNet, ResNetConfig
from lift_jax.models.vit.config import VisionConfig
from lift_jax.models.vit.tower import VisionTransformer
from lift_jax.parallel import cost
from lift_jax.parallel.mesh import batch_sharding, check_batch, frozen_sharding, make_mesh, put
from lift_jax.settings.groups.model import ModelSettings
from lift_jax.settings.schema import Settings
from lift_jax.training import losses
from lift_jax.training import optimizer as optimizers
from lift_jax.training.classifier import Assembled, assemble, check_names, make_head
from lift_jax.training.placement import chosen_precision, kept_type, use_precision
from lift_jax.training.start.remat import choose_remat, use_remat
from lift_jax.training.state import State, create_state, state_shardings, trainable_mask
from lift_jax.training.step import make_train_step
from lift_jax.weights import load

# Sizes of backbones that can be compiled without being on this machine.
SIZES = {
    "clip_vit_b32": VisionConfig(224, 32, 768, 12, 12, 3072),
    "clip_vit_b16": VisionConfig(224, 16, 768, 12, 12, 3072),
    "clip_vit_l14": VisionConfig(224, 14, 1024, 24, 16, 4096),
    "clip_vit_l14_336": VisionConfig(336, 14, 1024, 24, 16, 4096),
}
ROUNDS = 5  # of timed steps
# Dense bfloat16 TFLOP/s of a device, as its maker states.
PEAKS = {"H100": 989, "H200": 989, "A100": 312, "TPU v5 lite": 197, "TPU v5": 459, "TPU v6": 918}


@dataclass(frozen=True)
class Problem:
    """A training step and its arguments, as shapes with their shardings.

    Attributes:
        step: the jitted step.
        graph: graph of the classifier.
        vision: sizes of its image tower.
        state: tuned leaves and optimizer state.
        frozen: frozen leaves by path.
        batch: image, label and mask of one batch.
        mesh: the devices.
    """

    step: Any
    graph: nnx.GraphDef[Classifier]
    vision: Vision
    state: State
    frozen: dict[str, Any]
    batch: dict[str, Any]
    mesh: Mesh


def make_problem(settings: Settings, vision: Vision, classes: int, precision: Precision) -> Problem:
    """Returns the training step on a backbone of these sizes, without any weights.

    Raises UserError if the devices cannot share the batch evenly, or the classifier is made of
    texts.
    """
    s = settings
    names = check_names(s)
    if s.head.kind == "text":
        raise UserError(
            "head.kind is 'text': the bench times classifiers with weights of their own."
        )
    mesh = make_mesh(s.mesh.data, s.mesh.model, s.mesh.strategy)
    s = with_remat(s, vision)
    check_batch(mesh, "train.batch", s.train.batch, s.train.accum)
    graph, leaves, mask = abstract_classifier(s, vision, names, classes, precision)
    frozen = {
        path: shaped(
            leaf, frozen_sharding(mesh, path, leaf.shape), kept_type(path, leaf.dtype, precision)
        )
        for path, leaf in leaves.items()
        if not mask[path]
    }
    tuned = {
        path: jax.ShapeDtypeStruct(leaf.shape, jnp.float32)
        for path, leaf in leaves.items()
        if mask[path]
    }
    optimizer, averages = optimizers.make(s.train, lambda step: s.train.lr), s.train.ema > 0
    state = jax.eval_shape(lambda tuned: create_state(tuned, optimizer, averages), tuned)
    loss = losses.make(s.loss.name, np.ones(classes), **s.loss.options)
    step = make_train_step(
        graph, vision, loss, optimizer, mesh, s.train.accum, remat=s.train.remat, ema=s.train.ema
    )
    return Problem(
        step=step,
        graph=graph,
        vision=vision,
        state=jax.tree.map(shaped, state, state_shardings(state, mesh)),
        frozen=frozen,
        batch=abstract_batch(s.train.batch, vision.resolution, mesh),
        mesh=mesh,
    )


def with_remat(settings: Settings, vision: Vision) -> Settings:
    """Returns settings in which train.remat is what auto chooses on the devices here."""
    names, devices = check_names(settings), jax.device_count()
    chosen = choose_remat(settings, names, BackboneConfig(vision), devices).chosen
    return replace(settings, train=replace(settings.train, remat=chosen))


def shaped(leaf: Any, sharding: Any, dtype: Any = None) -> jax.ShapeDtypeStruct:
    """Returns the shape of a leaf with a sharding, and with another dtype if one is given."""
    return jax.ShapeDtypeStruct(leaf.shape, dtype or leaf.dtype, sharding=sharding)


def abstract_classifier(
    settings: Settings,
    vision: Vision,
    names: tuple[str, ...],
    classes: int,
    precision: Precision,
) -> tuple[Any, dict[str, Any], dict[str, bool]]:
    """Returns the graph, the leaves as shapes by path, and which of them are trained."""
    made: list[Assembled] = []

    def model() -> nnx.Module:
        made.append(new_classifier(settings, vision, names, classes, precision))
        return made[-1].model

    graph, leaves = tree.flatten(nnx.eval_shape(model))
    return graph, leaves, trainable_mask(leaves, made[-1].is_trainable)


def new_classifier(
    settings: Settings,
    vision: Vision,
    names: tuple[str, ...],
    classes: int,
    precision: Precision,
) -> Assembled:
    """Returns a classifier with random weights of the tower, and a head of zeros."""
    rngs = nnx.Rngs(0)
    kind = ResNet if isinstance(vision, ResNetConfig) else VisionTransformer
    visual = kind(vision, rngs=rngs)  # type: ignore[arg-type]
    use_remat(visual, settings.train.remat)
    use_precision(precision, visual)
    head = make_head(settings.head, jnp.zeros((classes, visual.width), jnp.float32))
    return assemble(visual, head, names, settings.tuner, classes, rngs=rngs)


def random_leaves(settings: Settings, vision: Vision, classes: int) -> dict[str, jax.Array]:
    """Returns float32 leaves of a classifier with random weights of tower and head."""
    names = check_names(settings)

    @jax.jit
    def leaves() -> dict[str, jax.Array]:
        return tree.split(new_classifier(settings, vision, names, classes, FLOAT32).model)[1]

    found = leaves()
    weight = found["head/weight"]
    return found | {"head/weight": jax.random.normal(jax.random.key(0), weight.shape)}


def shardings(shapes: Any) -> Any:
    """Returns the shardings of shapes."""
    return jax.tree.map(lambda leaf: leaf.sharding, shapes)


def abstract_batch(rows: int, resolution: int, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of one batch: images, labels and mask."""
    kinds = {
        "image": ((rows, resolution, resolution, 3), "uint8"), "label": ((rows,), "int32"),
        "mask": ((rows,), "bool"),
    }  # fmt: skip
    sharding = batch_sharding(mesh)
    return {
        name: jax.ShapeDtypeStruct(size, jnp.dtype(dtype), sharding=sharding)
        for name, (size, dtype) in kinds.items()
    }


def filled(shapes: Any) -> Any:
    """Returns arrays with these shapes and shardings: noise, ones for labels and masks."""
    rng = np.random.default_rng(0)
    noise = 0.02 * rng.standard_normal(2**20, np.float32)  # repeated: drawing all is slow

    def fill(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        if leaf.dtype == jnp.uint8:
            array = rng.integers(0, 256, leaf.shape, np.uint8)
        elif jnp.issubdtype(leaf.dtype, jnp.floating):
            array = np.resize(noise, leaf.shape).astype(leaf.dtype)
        else:
            array = np.ones(leaf.shape, leaf.dtype)
        return put(array, leaf.sharding)

    return jax.tree.map(fill, shapes)


def measure(
    settings: Settings,
    vision: Vision,
    classes: int,
    count: int,
    console: Console,
    seconds: Seconds | None = None,
) -> float:
    """Times `count` steps on the devices here; prints and returns images per second.

    `seconds` is given the time of a step in each of up to `ROUNDS` rounds.
    """
    made = make_problem(settings, vision, classes, chosen_precision(settings.model))
    loss = None
    current, frozen, batch = filled((made.state, made.frozen, made.batch))
    compiled = cost.compile_step(made.step, current, frozen, batch, console)
    rounds = [2] + [len(part) for part in np.array_split(range(count), min(ROUNDS, count))]
    times = []
    for steps_timed in rounds:  # the first round also loads and allocates
        begin = time.monotonic()
        for _ in range(steps_timed):
            current, loss = compiled.step(current, frozen, batch)
        jax.block_until_ready(loss)
        times.append((time.monotonic() - begin) / steps_timed)
    best = float(np.average(times[1:], weights=rounds[1:]))
    if seconds is not None:
        seconds["training step"] = times[1:]
    rate = settings.train.batch / best
    kind = jax.devices()[0].device_kind
    peak = next((value for name, value in PEAKS.items() if name in kind), None)
    share = f", {compiled.flops / best / 1e12 / peak:.1%} of its peak" if peak else ""
    console.print(
        f"{settings.model.backbone} on {made.mesh.size} x {kind}: {1000 * best:.1f} ms a step of "
        f"{settings.train.batch}, {rate:,.1f} images/s, {compiled.flops / best / 1e12:.2f} TFLOP/s "
        f"a device{share}."
    )
    stats = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        console.print(f"Peak memory: {decimal(stats['peak_bytes_in_use'])}.")
    return rate


def vision_sizes(model: ModelSettings) -> Vision:
    """Returns the sizes of an image tower. Raises UserError if they are not known here."""
    name = model.backbone
    sizes = SIZES[name] if name in SIZES else load.sizes(name).vision
    if model.resolution and isinstance(sizes, VisionConfig):
        sizes = replace(sizes, resolution=model.resolution)
    return sizes
