"""From a config to everything that the first step needs."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict
from rich.console import Console

from lift_jax import checkpoint, init, log, losses, metrics, optim
from lift_jax import mesh as mesh_lib
from lift_jax import state as state_lib
from lift_jax.data import catalog, loader
from lift_jax.data.sources import Dataset
from lift_jax.errors import unknown
from lift_jax.models import tree, tuners
from lift_jax.models.clip import Classifier
from lift_jax.models.heads import HEADS, ZeroShotHead
from lift_jax.models.tree import Tree
from lift_jax.models.vit import VisionConfig
from lift_jax.weights import load_backbone, load_tokenizer


@dataclass(frozen=True)
class Setup:
    """Everything that a config makes before the first step."""

    mesh: Mesh
    data: Dataset
    vision: VisionConfig
    graph: nnx.GraphDef[Classifier]  # of the classifier that is tuned
    tuned: Tree  # float32, as they start; replicated
    frozen: Tree  # in the precision of the config; placed
    zero_shot: tuple[nnx.GraphDef[Classifier], Tree]  # the classifier before tuning
    fingerprint: str  # of the backbone
    steps_per_epoch: int
    rate: optax.Schedule  # step (0-based) -> learning rate
    optimizer: optax.GradientTransformation


def build(config: ConfigDict, console: Console) -> Setup:
    """Loads data and backbone, initialises head and tuners, and places the weights."""
    # -- names, before anything slow
    names = tuners.parse_names(config.tuner.name)
    if config.head.kind not in HEADS:
        raise unknown("head (head.kind)", config.head.kind, HEADS)
    if config.loss.name not in losses.LOSSES:
        raise unknown("loss (loss.name)", config.loss.name, losses.LOSSES)

    # -- devices
    mesh = mesh_lib.make(config.mesh.data, config.mesh.model)
    mesh_lib.check_batch(mesh, "train.batch", config.train.batch, config.train.accum)
    mesh_lib.check_batch(mesh, "test.batch", config.test.batch)
    on_cpu = jax.default_backend() == "cpu"
    precision = config.model.precision
    bfloat16 = precision == "bfloat16" or (precision == "auto" and not on_cpu)

    # -- data
    data = catalog.load(config.data, config.seed)
    sizes = {k: int(v.sum()) for k, v in metrics.groups(data.group_counts).items()}
    console.print(
        f"Data: {len(data.train.labels):,} training and {len(data.test.labels):,} test images of "
        f"{len(data.class_names):,} classes ({sizes['many']} many, {sizes['medium']} medium, "
        f"{sizes['few']} few shot; {data.counts.max():,} to {data.counts.min():,} images a class)"
    )
    if not data.counts.all():
        empty = [data.class_names[i] for i in np.flatnonzero(data.counts == 0)]
        console.print(
            f"Warning: classes without a training image ({len(empty)} of "
            f"{len(data.class_names)}), which count as the smallest in the loss: {some(empty)}",
            markup=False,
        )

    # -- backbone, and CLIP's own classifier before anything is tuned
    clip = load_backbone(config.model.backbone)
    vision = clip.config.vision
    tokenizer = load_tokenizer(config.model.backbone, clip.config.text.context)
    texts = init.class_texts(clip, tokenizer, init.prompts(data.class_names, config.head.prompt))
    zero_head = ZeroShotHead(clip.image_proj[...], texts, clip.logit_scale[...])
    zero_graph, zero_leaves = tree.flatten(Classifier(clip.visual, zero_head))
    zero_leaves = {path: leaf[...] for path, leaf in zero_leaves.items()}
    fingerprint = checkpoint.fingerprint(
        {path: leaf for path, leaf in zero_leaves.items() if path != "head/class_texts"}
    )

    # -- head and tuners
    head_key, tuner_key = jax.random.split(jax.random.key(config.seed))
    if config.head.init == "text":
        weight = init.text_head(texts, clip.image_proj[...])
    else:
        weight = init.random_head(len(data.class_names), vision.width, head_key)
    head = HEADS[config.head.kind](weight, scale=config.head.scale)
    tuners.attach(
        clip.visual, names, len(data.class_names), rngs=nnx.Rngs(tuner_key),
        dim=config.tuner.dim, partial=config.tuner.partial, init=config.tuner.init,
    )  # fmt: skip
    is_trainable = tuners.trainable(names, vision.layers, config.tuner.partial)
    graph, tuned, frozen = state_lib.split(Classifier(clip.visual, head), is_trainable)
    console.print(log.parameter_table(parameters(tuned, frozen)))

    # -- placement: what the two classifiers share is placed once
    def place(array: jax.Array) -> jax.Array:
        array = array.astype(jnp.bfloat16) if bfloat16 else array
        return mesh_lib.put(array, mesh_lib.frozen_sharding(mesh, array.shape))

    zero_leaves = {
        # the zero-shot head stays in float32, as the tuned head
        path: mesh_lib.put(leaf, mesh_lib.replicated(mesh))
        if path.startswith("head/")
        else place(leaf)
        for path, leaf in zero_leaves.items()
    }

    # -- optimizer
    per_epoch = loader.steps_per_epoch(len(data.train), config.train.batch)
    rate = optim.schedule(config.train.lr, config.train.epochs, per_epoch)

    return Setup(
        mesh=mesh,
        data=data,
        vision=vision,
        graph=graph,
        tuned={path: mesh_lib.put(a, mesh_lib.replicated(mesh)) for path, a in tuned.items()},
        frozen={path: zero_leaves[path] for path in frozen},
        zero_shot=(zero_graph, zero_leaves),
        fingerprint=fingerprint,
        steps_per_epoch=per_epoch,
        rate=rate,
        optimizer=optim.sgd(rate, config.train.momentum, config.train.weight_decay),
    )


def parameters(tuned: Tree, frozen: Tree) -> list[log.Parameter]:
    """Path, shape and kind of every leaf; the head is a kind of its own."""
    return [
        *(log.Parameter(p, leaf.shape, "head" if p.startswith("head/") else "tuned")
          for p, leaf in tuned.items()),
        *(log.Parameter(p, leaf.shape, "frozen") for p, leaf in frozen.items()),
    ]  # fmt: skip


def some(names: list[str]) -> str:
    """The first ten names, and dots for the others."""
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
