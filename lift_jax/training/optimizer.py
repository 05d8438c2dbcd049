"""SGD as in the papers, with a cosine learning rate that changes once an epoch."""

from collections.abc import Mapping

import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Float


def schedule(lr: float, epochs: int, steps_per_epoch: int) -> optax.Schedule:
    """Returns a function from the step, counted from 0, to the learning rate.

    The rate is lr * (1 + cos(pi e / epochs)) / 2 in epoch e = 0, 1, ..., constant in an epoch.
    """

    def rate(step: ArrayLike) -> Float[Array, ""]:
        epoch = jnp.asarray(step, jnp.int32) // steps_per_epoch
        return lr * (1 + jnp.cos(jnp.pi * epoch.astype(jnp.float32) / epochs)) / 2

    return rate


def sgd(rate: optax.Schedule, momentum: float, weight_decay: float) -> optax.GradientTransformation:
    """Returns PyTorch's SGD: weight decay is added to the gradient before the momentum."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.trace(momentum),
        optax.scale_by_learning_rate(rate),
    )


def freeze(
    optimizer: optax.GradientTransformation, mask: Mapping[str, bool]
) -> optax.GradientTransformation:
    """Returns an optimizer for a whole tree that trains only the leaves with a True mask.

    `mask` is the result of `state.trainable_mask`. The updates of all other leaves are zero.
    """
    labels = {path: "tuned" if trained else "frozen" for path, trained in mask.items()}
    return optax.partition({"tuned": optimizer, "frozen": optax.set_to_zero()}, labels)
