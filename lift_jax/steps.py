"""The two jitted functions: one step of training, and the counts of one batch of a test."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, UInt8

from lift_jax import mesh as mesh_lib
from lift_jax import metrics
from lift_jax.data import small
from lift_jax.losses import Loss
from lift_jax.models import tree
from lift_jax.models.backbone import Classifier, Tower, Vision
from lift_jax.models.resnet import ResNetConfig
from lift_jax.models.tree import Tree
from lift_jax.models.vit import BORDER, REMAT
from lift_jax.state import State, shardings

# image u8[b r r 3] or u8[b k r r 3], label i32[b], mask bool[b]; of images that are cut here, image
# u8[b h w 3] and cut i32[b 2 6] or i32[b k 2 6]
Batch = dict[str, jax.Array]


def pixels(batch: Batch, vision: Vision) -> Array:
    """The views of a batch, also where it holds images that are smaller (see `data.small`)."""
    if "cut" in batch:
        return small.render(batch["image"], batch["cut"], vision.resolution)
    return batch["image"]


def normalise(images: UInt8[Array, "..."], vision: Vision) -> Float[Array, "..."]:
    """Bytes to float32, less the mean and over the standard deviation of the backbone."""
    mean, std = jnp.array(vision.mean, jnp.float32), jnp.array(vision.std, jnp.float32)
    return (images.astype(jnp.float32) / 255 - mean) / std


def feature(visual: Tower, rows: Array, start: int = 0) -> Float[Array, "n d"]:
    """The tower's feature of images u8[n h w 3], or of what enters block `start` (from 1 on).

    The one place that decides where a forward pass begins: see features.py.
    """
    return visual.upper(rows, start) if start else visual(normalise(rows, visual.config))


def logits_of(model: Classifier, rows: Array, start: int) -> Float[Array, "n c"]:
    return model.head.classify(model.head.embed(feature(model.visual, rows, start)))


def make_train_step(
    graph: nnx.GraphDef[Classifier],
    vision: Vision,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    accum: int = 1,
    start: int = 0,
    remat: str = "none",
) -> Callable[[State, Tree, Batch], tuple[State, Float[Array, ""]]]:
    """Returns the jitted `(state, frozen, batch) -> (state, loss)`; it donates the state.

    The loss is that of the whole batch over its real rows, however many devices or micro-batches
    (`accum`) share the work; a loss that is not additive then costs a second forward pass. Only
    tuned leaves are differentiated. With `start` the batch's images are what enters that block.
    `remat` is that of the tower's blocks.
    """

    def forward(tuned: Tree, frozen: Tree, batch: Batch) -> Array:
        leaves = mesh_lib.gathered(mesh, tuned | frozen)
        return logits_of(tree.merge(graph, leaves), pixels(batch, vision), start)

    if mesh.shape["model"] > 1:  # the backward pass gathers again, or each device would keep all
        keep = jax.checkpoint_policies
        forward = jax.checkpoint(
            forward,
            policy=keep.save_anything_except_these_names(mesh_lib.GATHERED)
            if remat == "none"  # else a policy around the blocks' own has to agree with it
            else keep.save_from_both_policies(keep.save_only_these_names(BORDER), REMAT[remat]),
        )

    def terms(tuned: Tree, frozen: Tree, batch: Batch) -> tuple[Array, Array]:
        return loss.terms(forward(tuned, frozen, batch), batch["label"], batch["mask"])

    gradient = jax.value_and_grad(terms, has_aux=True)  # of the numerator; the denominator is aux

    def cut(rows: Array) -> Array:
        # every accum-th row: each device cuts its own rows, and nothing moves between devices
        return rows.reshape(-1, accum, *rows.shape[1:]).swapaxes(0, 1)

    def in_parts(tuned: Tree, frozen: Tree, batch: Batch) -> tuple:
        """Numerator, denominator and gradient as sums over micro-batches."""

        def add(total: tuple, micro: Batch) -> tuple[tuple, None]:
            (numerator, denominator), grads = gradient(tuned, frozen, micro)
            return jax.tree.map(jnp.add, total, (numerator, denominator, grads)), None

        zero = jnp.zeros((), jnp.float32)
        total = (zero, zero, jax.tree.map(jnp.zeros_like, tuned))
        if accum == 1:
            return add(total, batch)[0]
        return jax.lax.scan(add, total, jax.tree.map(cut, batch))[0]

    def in_two_passes(tuned: Tree, frozen: Tree, batch: Batch) -> tuple:
        """The same for any loss: all logits first, then their gradient back by micro-batches."""
        parts = jax.tree.map(cut, batch)
        logits = jax.lax.map(lambda micro: forward(tuned, frozen, micro), parts)
        logits = logits.swapaxes(0, 1).reshape(-1, loss.classes)  # the batch's order again
        whole = jax.value_and_grad(loss.terms, has_aux=True)
        (numerator, denominator), pulls = whole(logits, batch["label"], batch["mask"])

        def add(total: Tree, part: tuple[Batch, Array]) -> tuple[Tree, None]:
            micro, pull = part
            _, back = jax.vjp(lambda tuned: forward(tuned, frozen, micro), tuned)
            return jax.tree.map(jnp.add, total, back(pull)[0]), None

        zeros = jax.tree.map(jnp.zeros_like, tuned)
        return numerator, denominator, jax.lax.scan(add, zeros, (parts, cut(pulls)))[0]

    sums = in_parts if accum == 1 or loss.additive else in_two_passes

    def step(state: State, frozen: Tree, batch: Batch) -> tuple[State, Array]:
        numerator, denominator, grads = sums(state.tuned, frozen, batch)
        denominator = jnp.maximum(denominator, jnp.finfo(jnp.float32).tiny)
        grads = jax.tree.map(lambda g: g / denominator, grads)
        updates, opt = optimizer.update(grads, state.opt, state.tuned)
        tuned = jax.tree.map(jnp.add, state.tuned, updates)
        after = State(state.step + 1, tuned, opt)
        after = jax.lax.with_sharding_constraint(after, shardings(after, mesh))
        return after, numerator / denominator

    return jax.jit(step, donate_argnums=0, out_shardings=(None, mesh_lib.replicated(mesh)))


@jax.jit
def all_finite(leaves: Tree) -> Bool[Array, ""]:
    """Whether no leaf holds NaN or infinity."""
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves.values()]))


def make_predict(
    graph: nnx.GraphDef[Classifier], vision: Vision, start: int = 0
) -> Callable[[Tree, Batch], Float[Array, "b c"]]:
    """Returns `(leaves, batch) -> logits`, the mean over an image's crops where it has several.

    The crops are a vmapped axis (a ResNet's are rows), and the batch axis stays sharded. What is
    averaged is the embedding, in which the logits are affine.
    """

    def predict(leaves: Tree, batch: Batch) -> Float[Array, "b c"]:
        model = tree.merge(graph, leaves)
        images = pixels(batch, vision)
        if start or images.ndim == 4:
            return logits_of(model, images, start)
        if isinstance(vision, ResNetConfig):
            # under vmap a convolution gathers the images of all devices on each
            crops = model.embed(normalise(images.reshape(-1, *images.shape[2:]), vision))
            crops = crops.reshape(*images.shape[:2], -1)
        else:
            crops = jax.vmap(lambda crop: model.embed(normalise(crop, vision)), 1, 1)(images)
        return model.head.classify(crops.mean(axis=1))

    return predict


def make_count(
    graph: nnx.GraphDef[Classifier],
    vision: Vision,
    mesh: Mesh,
    shifts: Float[np.ndarray, "t c"] | None = None,
    start: int = 0,
) -> Callable[[Tree, Batch], dict[str, Array]]:
    """Returns the jitted `(leaves, batch) -> metrics.count` of the batch over all devices.

    With `shifts` all counts have a first axis [t]: each is of the logits less one of them.
    """
    predict = make_predict(graph, vision, start)

    def count(leaves: Tree, batch: Batch) -> dict[str, Array]:
        def of(logits: Array) -> dict[str, Array]:
            return metrics.count(logits, batch["label"], batch["mask"])

        logits = predict(mesh_lib.gathered(mesh, leaves), batch)
        if shifts is None:
            return of(logits)
        return jax.lax.map(lambda shift: of(logits - shift), jnp.asarray(shifts))

    return jax.jit(count, out_shardings=mesh_lib.replicated(mesh))
