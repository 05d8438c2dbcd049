"""Losses for long-tailed classes, each one small function of the training counts.

A loss is a ratio of two sums over the rows of a batch; its denominator depends on no parameter.
So a batch cut into micro-batches has the same loss and gradient as the whole: add the numerators,
add the denominators, divide once.

Classes without a training image would have the prior 0 and the logit adjustment minus infinity;
they count as the smallest positive count instead.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int
from optax import losses as optax_losses

from lift_jax.errors import UserError, unknown

Sums = tuple[Float[Array, ""], Float[Array, ""]]
# (float32 logits, labels, weight of each row: 1 for a real row, 0 for padding) -> the two sums
Terms = Callable[[Float[Array, "n c"], Int[Array, " n"], Float[Array, " n"]], Sums]


@dataclass(frozen=True)
class Loss:
    """A loss over a batch of which some rows may be padding. `make` builds it.

    Attributes:
        name: its name in `LOSSES`.
        classes: the number of classes c.
        sums: the formula, over rows that are all finite.
    """

    name: str
    classes: int
    sums: Terms

    def __call__(
        self,
        logits: Float[Array, "n c"],
        labels: Int[Array, " n"],
        mask: Bool[Array, " n"] | None = None,
    ) -> Float[Array, ""]:
        """Returns the mean loss over the real rows, 0 where there is none.

        Args:
            logits: of any floating type; computed in float32.
            labels: class numbers; those of padded rows may be anything.
            mask: true for real rows; None if all are. What stands in the other rows, even NaN,
                changes neither the loss nor any gradient.
        """
        numerator, denominator = self.terms(logits, labels, mask)
        some = denominator > 0
        return jnp.where(some, numerator / jnp.where(some, denominator, 1.0), 0.0)

    def terms(
        self,
        logits: Float[Array, "n c"],
        labels: Int[Array, " n"],
        mask: Bool[Array, " n"] | None = None,
    ) -> Sums:
        """Returns (numerator, denominator): sums over the real rows, whose ratio is the loss."""
        if logits.shape[-1] != self.classes:
            raise ValueError(f"logits of {logits.shape[-1]} classes, counts of {self.classes}")
        if mask is None:
            mask = jnp.ones(labels.shape, bool)
        # Padding is replaced before any arithmetic: 0 times the gradient of a NaN is a NaN.
        logits = jnp.where(mask[:, None], logits.astype(jnp.float32), 0.0)
        labels = jnp.where(mask, labels, 0)
        return self.sums(logits, labels, mask.astype(jnp.float32))


def make(name: str, counts: ArrayLike, **options: float) -> Loss:
    """Returns the loss of a name.

    Args:
        name: a key of `LOSSES`.
        counts: training images of each class, [c].
        options: the loss's own, such as tau; each has a default.

    Raises:
        UserError: for an unknown name or option, and for counts that no training set has.
    """
    if name not in LOSSES:
        raise unknown("loss (loss.name)", name, LOSSES)
    build = LOSSES[name]
    known = list(inspect.signature(build).parameters)[1:]
    for option in options:
        if option not in known:
            takes = f"takes {', '.join(known)}" if known else "takes no options"
            raise UserError(f"The loss {name!r} has no option {option!r}: it {takes}.")
    filled = fill(counts)
    return Loss(name, len(filled), build(filled, **options))


def fill(counts: ArrayLike) -> np.ndarray:
    """Returns the counts as float64[c], classes without images at the smallest positive count."""
    array = np.asarray(counts, np.float64)
    if array.ndim != 1 or not np.isfinite(array).all() or (array < 0).any() or not array.any():
        raise UserError(
            "The training counts must be one number a class, none negative and not all 0; "
            f"found {np.array2string(array, threshold=20)}."
        )
    return np.where(array > 0, array, array[array > 0].min())


def la(counts: np.ndarray, tau: float = 1.0) -> Terms:
    """Logit adjustment: cross-entropy of z + tau log pi, pi_c = n_c / sum n (arXiv 2007.07314)."""
    shift = jnp.asarray(tau * np.log(counts / counts.sum()), jnp.float32)

    def sums(logits: jax.Array, labels: jax.Array, weight: jax.Array) -> Sums:
        rows = optax_losses.softmax_cross_entropy_with_integer_labels(logits + shift, labels)
        return (rows * weight).sum(), weight.sum()

    return sums


def bs(counts: np.ndarray) -> Terms:
    """Balanced softmax: logit adjustment with tau 1 (arXiv 2007.10740)."""
    return la(counts, tau=1.0)


def ce(counts: np.ndarray) -> Terms:
    """Plain cross-entropy: logit adjustment with tau 0, so the counts play no part."""
    return la(counts, tau=0.0)


LOSSES: dict[str, Callable[..., Terms]] = {"la": la, "bs": bs, "ce": ce}
