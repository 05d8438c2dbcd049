"""The jitted training step: the gradient of the tuned leaves, and the optimizer's update."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from lift_jax.evaluation.forward import Batch, logits_of, pixels
from lift_jax.models import tree
from lift_jax.models.backbone import Classifier, Vision
from lift_jax.models.tree import Tree
from lift_jax.models.vit.tower import BORDER, REMAT
from lift_jax.parallel.mesh import GATHERED, gather, replicated
from lift_jax.training.losses import Loss
from lift_jax.training.state import State, moving_average, state_shardings

# Float32 products (head, loss, float32 runs) are exact: by default GPUs and TPUs round them.
# bfloat16 products are not changed. Compile and run steps and tests in this context.
exact_products = partial(jax.default_matmul_precision, "highest")

Forward = Callable[[Tree, Tree, Batch], Float[Array, "b c"]]  # (tuned, frozen, batch) -> logits
# (tuned, frozen, batch) -> numerator and denominator of the loss, and gradient of the numerator
Sums = Callable[[Tree, Tree, Batch], tuple[Float[Array, ""], Float[Array, ""], Tree]]
# gradient of the logits -> (gradient of the tuned leaves,)
Back = Callable[[Array], tuple[Tree]]
PullBack = Callable[[Tree, Tree, Back, Array], Tree]  # (tuned, frozen, back, pull) -> gradient
TrainStep = Callable[[State, Tree, Batch], tuple[State, Float[Array, ""]]]


def make_train_step(
    graph: nnx.GraphDef[Classifier],
    vision: Vision,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    accum: int = 1,
    start: int = 0,
    remat: str = "none",
    ema: float = 0.0,
) -> TrainStep:
    """Returns the jitted `(state, frozen, batch) -> (state, loss)`, which donates the state.

    The loss and gradient are those of the whole batch over its real rows, for any number of devices
    and micro-batches. Only tuned leaves are differentiated.

    Args:
        graph: graph of the classifier.
        vision: sizes of the image tower.
        loss: loss for the training counts.
        optimizer: optimizer of the tuned leaves.
        mesh: the devices.
        accum: number of micro-batches.
        start: the block that the batch enters, if it holds activations; 0 for images.
        remat: what the tower's blocks compute again in the backward pass (train.remat).
        ema: decay of the average, for a state that holds one.
    """
    forward = make_forward(graph, vision, mesh, start, remat)
    pull_back = make_pull_back(graph)
    sums = one_pass(forward, loss, accum, pull_back)
    if accum > 1 and not loss.additive:
        sums = two_passes(forward, loss, accum, pull_back)

    def step(state: State, frozen: Tree, batch: Batch) -> tuple[State, Array]:
        numerator, denominator, grads = sums(state.tuned, frozen, batch)
        denominator = jnp.maximum(denominator, jnp.finfo(jnp.float32).tiny)
        grads = jax.tree.map(lambda g: g / denominator, grads)
        updates, opt = optimizer.update(grads, state.opt, state.tuned)
        tuned = jax.tree.map(jnp.add, state.tuned, updates)
        after = State(state.step + 1, tuned, opt, moving_average(state, tuned, ema))
        after = jax.lax.with_sharding_constraint(after, state_shardings(after, mesh))
        return after, numerator / denominator

    return jax.jit(step, donate_argnums=0, out_shardings=(None, replicated(mesh)))


def make_forward(
    graph: nnx.GraphDef[Classifier], vision: Vision, mesh: Mesh, start: int, remat: str
) -> Forward:
    """Returns the function from tuned leaves, frozen leaves and a batch to logits.

    `make_train_step` describes the arguments.
    """

    def forward(tuned: Tree, frozen: Tree, batch: Batch) -> Array:
        leaves = gather(mesh, tuned | frozen)
        return logits_of(tree.merge(graph, leaves), pixels(batch, vision), start)

    if mesh.shape["model"] == 1:
        return forward
    # The backward pass gathers weights again; otherwise each device would keep all of them.
    keep = jax.checkpoint_policies
    if remat == "none":
        policy = keep.save_anything_except_these_names(GATHERED)
    else:  # the policy must agree with that of the blocks inside
        borders = keep.save_only_these_names(BORDER)
        policy = keep.save_from_both_policies(borders, REMAT[remat])
    return jax.checkpoint(forward, policy=policy)


def make_pull_back(graph: nnx.GraphDef[Classifier]) -> PullBack:
    """Returns the function from the gradient of the logits to that of the tuned leaves.

    If the tower's products are float16, numbers below 6e-8 would be lost. So it multiplies the
    gradient of the logits by a power of two, such that its largest number lies in 8 to 16, and
    divides the result by it. All other numbers stay the same.
    """

    def pull_back(tuned: Tree, frozen: Tree, back: Back, pull: Array) -> Tree:
        types = tree.merge(graph, tuned | frozen).visual.types
        if types.products != jnp.float16:
            return back(pull)[0]
        exponent = jnp.frexp(jnp.abs(pull).max())[1]
        scale = jnp.ldexp(jnp.ones((), jnp.float32), jnp.clip(4 - exponent, -100, 100))
        return jax.tree.map(lambda g: g / scale, back(pull * scale)[0])

    return pull_back


def one_pass(forward: Forward, loss: Loss, accum: int, pull_back: PullBack) -> Sums:
    """Returns a function that adds numerator, denominator and gradient over micro-batches."""

    def gradient(tuned: Tree, frozen: Tree, batch: Batch) -> tuple[tuple[Array, Array], Tree]:
        logits, back = jax.vjp(lambda tuned: forward(tuned, frozen, batch), tuned)
        whole = jax.value_and_grad(loss.terms, has_aux=True)
        terms, pull = whole(logits, batch["label"], batch["mask"])
        return terms, pull_back(tuned, frozen, back, pull)

    def sums(tuned: Tree, frozen: Tree, batch: Batch) -> tuple[Array, Array, Tree]:
        def add(total: tuple, micro: Batch) -> tuple[tuple, None]:
            (numerator, denominator), grads = gradient(tuned, frozen, micro)
            return jax.tree.map(jnp.add, total, (numerator, denominator, grads)), None

        zero = jnp.zeros((), jnp.float32)
        total = (zero, zero, jax.tree.map(jnp.zeros_like, tuned))
        if accum == 1:
            return add(total, batch)[0]
        return jax.lax.scan(add, total, split_rows(batch, accum))[0]

    return sums


def two_passes(forward: Forward, loss: Loss, accum: int, pull_back: PullBack) -> Sums:
    """Returns the same function as `one_pass`, for losses that need all logits of a batch at once.

    It computes all logits first, and then takes their gradient back by micro-batches. This costs a
    second forward pass.
    """

    def sums(tuned: Tree, frozen: Tree, batch: Batch) -> tuple[Array, Array, Tree]:
        parts = split_rows(batch, accum)
        logits = jax.lax.map(lambda micro: forward(tuned, frozen, micro), parts)
        logits = logits.swapaxes(0, 1).reshape(-1, loss.classes)  # the batch's order again
        whole = jax.value_and_grad(loss.terms, has_aux=True)
        (numerator, denominator), pulls = whole(logits, batch["label"], batch["mask"])

        def add(total: Tree, part: tuple[Batch, Array]) -> tuple[Tree, None]:
            micro, pull = part
            _, back = jax.vjp(lambda tuned: forward(tuned, frozen, micro), tuned)
            return jax.tree.map(jnp.add, total, pull_back(tuned, frozen, back, pull)), None

        zeros = jax.tree.map(jnp.zeros_like, tuned)
        grads = jax.lax.scan(add, zeros, (parts, split_rows(pulls, accum)))[0]
        return numerator, denominator, grads

    return sums


def split_rows(arrays: Any, accum: int) -> Any:
    """Splits the rows of all arrays into `accum` micro-batches, along a new first axis.

    A micro-batch takes every accum-th row, so that each device splits its own rows and no row moves
    between devices.
    """

    def split(rows: Array) -> Array:
        return rows.reshape(-1, accum, *rows.shape[1:]).swapaxes(0, 1)

    return jax.tree.map(split, arrays)


def all_finite(leaves: Tree) -> bool:
    """Returns True if every leaf is finite."""
    return all([bool(each) for each in [_finite(leaf) for leaf in leaves.values()]])


@jax.jit
def _finite(leaf: Array) -> Bool[Array, ""]:
    # one small program for each shape compiles sooner than one for all leaves
    return jnp.isfinite(leaf).all()
