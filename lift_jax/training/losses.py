"""Losses for long-tailed classes, each a small function of the training counts.

A loss is a ratio of two sums over the rows of a batch, and its denominator depends on no parameter.
So the micro-batches of a batch give the loss and gradient of the whole batch: add the numerators,
add the denominators, and divide once. Only `lade` needs all logits of a batch at once.

A class without training images would have the prior 0, and a logit adjustment of minus infinity.
Its count is replaced by the smallest positive count.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from lift_jax.data.prior import fill, log_prior
from lift_jax.errors import UserError, unknown

Sums = tuple[Float[Array, ""], Float[Array, ""]]
# (float32 logits, labels, weight of each row: 1 for a real row, 0 for padding) -> the two sums
Terms = Callable[[Float[Array, "n c"], Int[Array, " n"], Float[Array, " n"]], Sums]


@dataclass(frozen=True)
class Loss:
    """A loss over a batch in which some rows may be padding. `make` builds it.

    Attributes:
        name: key in `LOSSES`.
        classes: number of classes c.
        sums: formula of the two sums, for rows that are finite.
        additive: True if the terms of micro-batches add up to those of the batch.
    """

    name: str
    classes: int
    sums: Terms
    additive: bool

    def __call__(
        self,
        logits: Float[Array, "n c"],
        labels: Int[Array, " n"],
        mask: Bool[Array, " n"] | None = None,
    ) -> Float[Array, ""]:
        """Returns the mean loss over the real rows, or 0 if there are none.

        Args:
            logits: of any floating type; the loss is computed in float32.
            labels: class numbers; those of padded rows are ignored.
            mask: true for real rows; None if all rows are real. Values in the other rows, even NaN,
                change neither the loss nor any gradient.

        Raises ValueError for shapes that do not match.
        """
        numerator, denominator = self.terms(logits, labels, mask)
        has_rows = denominator > 0
        return jnp.where(has_rows, numerator / jnp.where(has_rows, denominator, 1.0), 0.0)

    def terms(
        self,
        logits: Float[Array, "n c"],
        labels: Int[Array, " n"],
        mask: Bool[Array, " n"] | None = None,
    ) -> Sums:
        """Returns (numerator, denominator): sums over the real rows, whose ratio is the loss.

        Raises ValueError for shapes that do not match, which could otherwise broadcast silently.
        """
        logits, labels = jnp.asarray(logits), jnp.asarray(labels)
        mask = jnp.ones(labels.shape, bool) if mask is None else jnp.asarray(mask, bool)
        if logits.ndim != 2 or logits.shape[1] != self.classes:
            raise ValueError(
                f"logits of shape {logits.shape}; expected one row for each image and one column "
                f"for each of the {self.classes} classes"
            )
        if not labels.shape == mask.shape == logits.shape[:1]:
            raise ValueError(
                f"labels of shape {labels.shape} and a mask of {mask.shape}; expected one of each "
                f"for the {len(logits)} rows of the logits"
            )
        # Padding is replaced before any arithmetic, for 0 times the gradient of a NaN is a NaN.
        logits = jnp.where(mask[:, None], logits.astype(jnp.float32), 0.0)
        labels = jnp.where(mask, labels, 0)
        return self.sums(logits, labels, mask.astype(jnp.float32))


def make(name: str, counts: ArrayLike, **options: float) -> Loss:
    """Returns a loss by name.

    Args:
        name: key in `LOSSES`.
        counts: number of training images of each class, [c].
        options: of this loss, such as tau; each has a default.

    Raises UserError for an unknown name or option, and for counts that no training set has.
    """
    check(name, options)
    filled = fill(counts)
    return Loss(name, len(filled), LOSSES[name](filled, **options), additive=name != "lade")


def check(name: str, options: Mapping[str, float]) -> None:
    """Raises UserError unless a loss of this name exists and takes these options."""
    if name not in LOSSES:
        raise unknown("loss (loss.name)", name, LOSSES)
    known = list(inspect.signature(LOSSES[name]).parameters)[1:]
    takes = f"takes {', '.join(known)}" if known else "takes no options"
    for option, value in options.items():
        if option not in known:
            raise UserError(f"The loss {name!r} has no option {option!r}: it {takes}.")
        below = 1 if option == "beta" else math.inf
        number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
        if not number or not 0 <= value < below:
            wanted = "in [0, 1)" if option == "beta" else "of at least 0"
            raise UserError(
                f"The loss {name!r} has {option}={value!r}; it must be a number {wanted}. "
                f"This loss {takes}."
            )


def cross_entropy(logits: Float[Array, "n c"], labels: Int[Array, " n"]) -> Float[Array, " n"]:
    """Returns the cross-entropy of each row in float32, exact to all digits however small it is.

    It is log(1 + sum of exp(z_j - z_y) over the classes j other than the label y): the 1, which
    would swallow small sums, is added by log1p.
    """
    if logits.shape[1] == 1:
        return jnp.zeros(len(logits))
    own = jnp.arange(logits.shape[1]) == labels[:, None]
    of_label = jnp.where(own, logits, 0.0).sum(axis=1, keepdims=True)
    return jax.nn.softplus(jax.nn.logsumexp(logits - of_label, axis=1, where=~own))


def la(counts: Float[np.ndarray, " c"], tau: float = 1.0) -> Terms:
    """Returns logit adjustment: cross-entropy of z + tau log pi (arXiv 2007.07314)."""
    shift = jnp.asarray(tau * log_prior(counts), jnp.float32)

    def sums(logits: jax.Array, labels: jax.Array, weight: jax.Array) -> Sums:
        return (cross_entropy(logits + shift, labels) * weight).sum(), weight.sum()

    return sums


def bs(counts: Float[np.ndarray, " c"]) -> Terms:
    """Returns balanced softmax: logit adjustment with tau 1 (arXiv 2007.10740)."""
    return la(counts, tau=1.0)


def ce(counts: Float[np.ndarray, " c"]) -> Terms:
    """Returns plain cross-entropy, which does not use the counts: logit adjustment with tau 0."""
    return la(counts, tau=0.0)


def focal(counts: Float[np.ndarray, " c"], gamma: float = 2.0) -> Terms:
    """Returns the focal loss: cross-entropy times (1 - p_y)^gamma (arXiv 1708.02002)."""

    def sums(logits: jax.Array, labels: jax.Array, weight: jax.Array) -> Sums:
        rows = cross_entropy(logits, labels)
        # For gamma < 1 the gradient of x^gamma is infinite at 0.
        wrong = jnp.maximum(-jnp.expm1(-rows), jnp.finfo(jnp.float32).tiny)
        return (wrong**gamma * rows * weight).sum(), weight.sum()

    return sums


def ldam(counts: Float[np.ndarray, " c"], max_margin: float = 0.5, scale: float = 25.0) -> Terms:
    """Returns LDAM: cross-entropy in which z_y is replaced by z_y - scale * m_y (arXiv 1906.07413).

    The margins m_c = n_c^(-1/4) are scaled so that the largest is `max_margin`. They are
    differences of cosines; `scale` turns these into differences of logits.
    """
    lowered = jnp.asarray(scale * margins(counts, max_margin), jnp.float32)

    def sums(logits: jax.Array, labels: jax.Array, weight: jax.Array) -> Sums:
        own = jax.nn.one_hot(labels, len(counts))
        return (cross_entropy(logits - own * lowered, labels) * weight).sum(), weight.sum()

    return sums


def margins(counts: Float[np.ndarray, " c"], largest: float) -> Float[np.ndarray, " c"]:
    """Returns n_c^(-1/4) for each class, scaled so that the largest is `largest`."""
    return largest * (counts / counts.min()) ** -0.25


def cb(counts: Float[np.ndarray, " c"], beta: float = 0.9999) -> Terms:
    """Returns the class-balanced loss (arXiv 1901.05555).

    The weight of a class is (1 - beta) / (1 - beta^n_c), scaled to mean 1 over the classes.
    """
    return weighted((1 - beta) / (1 - beta**counts))


def grw(counts: Float[np.ndarray, " c"], exponent: float = 1.0) -> Terms:
    """Returns generalised re-weighting (arXiv 2103.16370).

    The weight of a class is pi_c^-exponent, scaled to mean 1 over the classes.
    """
    return weighted((counts / counts.min()) ** -exponent)


def weighted(weights: Float[np.ndarray, " c"]) -> Terms:
    """Returns cross-entropy averaged with class weights, which are scaled to mean 1."""
    by_class = jnp.asarray(weights / weights.mean(), jnp.float32)

    def sums(logits: jax.Array, labels: jax.Array, weight: jax.Array) -> Sums:
        weight = weight * by_class[labels]
        return (cross_entropy(logits, labels) * weight).sum(), weight.sum()

    return sums


def lade(counts: Float[np.ndarray, " c"], weight: float = 0.1) -> Terms:
    """Returns LADE: logit adjustment plus `weight` times a regulariser (arXiv 2012.00321).

    The regulariser pulls the logits of each class towards their log density ratio. It is
    sum_c pi_c (T_c + 0.1 T_c^2 - mean of z_c over the rows of class c), where T_c is the log of the
    mean of exp(z_c) over all rows under a uniform prior. So this loss is not a sum over rows.
    """
    adjusted = la(counts)
    prior = np.exp(log_prior(counts))
    uniform = jnp.asarray(np.log(1 / len(counts) + 1e-9) - np.log(prior + 1e-9), jnp.float32)
    prior = jnp.asarray(prior, jnp.float32)

    def sums(logits: jax.Array, labels: jax.Array, real: jax.Array) -> Sums:
        numerator, n = adjusted(logits, labels, real)
        own = jax.nn.one_hot(labels, len(counts)) * real[:, None]
        own_mean = (own * logits).sum(axis=0) / (own.sum(axis=0) + 1e-8)
        # A batch without real rows has no mean. All its logits are 0 and take their place; the
        # factor n = 0 below removes them.
        of_mean = (real > 0) | (n == 0)
        t = jax.nn.logsumexp(logits + uniform, axis=0, where=of_mean[:, None])
        t = t - jnp.log(of_mean.sum(dtype=jnp.float32))
        bound = (prior * (t + 0.1 * jnp.square(t) - own_mean)).sum()
        return numerator + n * weight * bound, n

    return sums


LOSSES: dict[str, Callable[..., Terms]] = {
    "la": la, "bs": bs, "ce": ce, "focal": focal, "ldam": ldam, "cb": cb, "grw": grw, "lade": lade,
}  # fmt: skip
