"""SGD as in the papers, or AdamW, and the learning rate: a warm-up, then a cosine."""

from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Float, Float32

from lift_jax.settings.groups.train import TrainSettings
from lift_jax.settings.schema import Settings

LARGE_FOR_ADAMW = 0.01  # the papers' rates for SGD begin here
WARMUP_START = 1e-6  # share of the learning rate at step 0 of a warm-up


def schedule(
    lr: float, epochs: int, steps_per_epoch: int, *,
    each: str = "epoch", warmup: int = 0, end: float = 0.0,
) -> optax.Schedule:  # fmt: skip
    """Returns a function from the step, counted from 0, to the learning rate.

    The rate is lr * (end + (1 - end) * (1 + cos(pi x)) / 2). With each="epoch", x is e / epochs in
    epoch e = 0, 1, ..., so the rate is constant in an epoch. With each="step", x is
    i / (steps - warmup), where i counts the steps from 0 after the one that ends the warm-up. In
    steps 0 to `warmup` the rate is also multiplied by a line from 1e-6 to 1.
    """
    steps = epochs * steps_per_epoch
    first = warmup + 1 if warmup else 0  # step `warmup` has the full rate, and so has the next one

    def rate(step: ArrayLike) -> Float[Array, ""]:
        step = jnp.asarray(step, jnp.int32)
        if each == "step":
            done, of = jnp.maximum(step - first, 0), steps - warmup
        else:
            done, of = step // steps_per_epoch, epochs
        value = lr * (1 + jnp.cos(jnp.pi * done.astype(jnp.float32) / of)) / 2
        if end:
            value = lr * end + (1 - end) * value
        if warmup:
            grown = jnp.minimum(step, warmup).astype(jnp.float32) / warmup
            value = value * (WARMUP_START + (1 - WARMUP_START) * grown)
        return value

    return rate


def rate_of(train: TrainSettings, steps_per_epoch: int) -> optax.Schedule:
    """Returns the schedule of the settings."""
    return schedule(
        train.lr, train.epochs, steps_per_epoch,
        each=train.schedule, warmup=train.warmup, end=train.lr_end,
    )  # fmt: skip


def rates(
    rate: optax.Schedule, train: TrainSettings, steps_per_epoch: int
) -> Float32[np.ndarray, " steps"]:
    """Returns the learning rate of every step of a run, for people and the log."""
    if train.schedule == "epoch" and not train.warmup:
        first_steps = steps_per_epoch * np.arange(train.epochs)
        return np.repeat(np.asarray(jax.jit(rate)(first_steps)), steps_per_epoch)
    return np.asarray(jax.jit(rate)(np.arange(train.epochs * steps_per_epoch)))


def note(train: TrainSettings) -> str:
    """Returns a line on a learning rate that fits SGD and not AdamW, "" for others."""
    if train.optimizer != "adamw" or train.lr < LARGE_FOR_ADAMW:
        return ""
    return (
        f"Note: train.lr is {train.lr:g}, a rate for SGD. AdamW changes every weight by about the "
        "rate in each step: 0.0001 to 0.001 are usual."
    )


def of_run(
    settings: Settings, rate: optax.Schedule, paths: Iterable[str]
) -> optax.GradientTransformation:
    """Returns the optimizer of a run for its tuned leaves.

    LT-Soups has tuned all of them in its stages; the run itself trains the classifier alone.
    """
    optimizer = make(settings.train, rate)
    if not settings.soups.models:
        return optimizer
    return freeze(optimizer, {path: path.startswith("head/") for path in paths})


def make(train: TrainSettings, rate: optax.Schedule) -> optax.GradientTransformation:
    """Returns the optimizer that `train.optimizer` names."""
    if train.optimizer == "adamw":
        return adamw(rate, train.weight_decay)
    return sgd(rate, train.momentum, train.weight_decay)


def sgd(rate: optax.Schedule, momentum: float, weight_decay: float) -> optax.GradientTransformation:
    """Returns PyTorch's SGD: weight decay is added to the gradient before the momentum."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.trace(momentum),
        optax.scale_by_learning_rate(rate),
    )


def adamw(rate: optax.Schedule, weight_decay: float) -> optax.GradientTransformation:
    """Returns AdamW with PyTorch's defaults, which decays all leaves alike."""
    made = optax.adamw(rate, b1=0.9, b2=0.999, eps=1e-8, weight_decay=weight_decay)

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to the count of steps
            return made.update(updates, state, params)

    return optax.GradientTransformation(made.init, update)


def arrays_per_leaf(train: TrainSettings) -> int:
    """Returns how many arrays of its size a tuned leaf takes: values, moments and average."""
    return 1 + {"sgd": 1, "adamw": 2}[train.optimizer] + (train.ema > 0)


def freeze(
    optimizer: optax.GradientTransformation, mask: Mapping[str, bool]
) -> optax.GradientTransformation:
    """Returns an optimizer for a whole tree that trains only the leaves with a True mask.

    `mask` is the result of `state.trainable_mask`. The updates of all other leaves are zero.
    """
    labels = {path: "tuned" if trained else "frozen" for path, trained in mask.items()}
    return optax.partition({"tuned": optimizer, "frozen": optax.set_to_zero()}, labels)
