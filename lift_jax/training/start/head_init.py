"""Initialisation of the head: from class names, from training images, or at random (LIFT section
4.2)."""

import warnings
from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array, Float, Int
from rich.console import Console
from rich.filesize import decimal

from lift_jax.data.images import views
from lift_jax.data.types import Split
from lift_jax.errors import UserError
from lift_jax.evaluation.activations.cache import Cache
from lift_jax.evaluation.activations.tower_outputs import tower_outputs
from lift_jax.evaluation.forward import feature
from lift_jax.models.backbone import Tower
from lift_jax.models.heads import l2_normalise

PROBE_STEPS = 100  # largest number of L-BFGS steps, as in the authors' code

Features = tuple[Float[np.ndarray, "m d"], Int[np.ndarray, "m"]]  # features and labels of images


@jax.jit
def head_from_texts(
    texts: Float[Array, "c e"], image_proj: Float[Array, "d e"] | None
) -> Float[Array, "c d"]:
    """Returns the semantic-aware head, rows of unit length (LIFT section 4.2).

    It maps the text features `texts` back through the image projection. `image_proj` is None where
    image features already lie in the space of the text features.
    """
    if image_proj is None:
        return l2_normalise(texts)
    with jax.default_matmul_precision("highest"):
        return l2_normalise(texts @ image_proj.astype(jnp.float32).T)


def sample_per_class(labels: Int[np.ndarray, "n"], most: int, seed: int) -> Int[np.ndarray, "m"]:
    """Draws at most `most` images of each class; returns their indices in ascending order."""
    order = np.random.default_rng(seed).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    first = np.searchsorted(labels[by_class], labels[by_class])  # where the row's class begins
    return np.sort(by_class[np.arange(len(labels)) - first < most])


def image_features(
    visual: Tower, train: Split, *, shots: int, seed: int, interpolation: str, cache: Cache
) -> Iterator[Features]:
    """Yields features and labels of at most `shots` images of each class (0: all), drawn by `seed`.

    The untuned tower sees each image resized by its short side and cropped at the centre, or the
    features come from the cache. Every process gets all features.
    """
    split = train.take(sample_per_class(train.labels, shots, seed)) if shots else train
    view = views.TestTransform(visual.config.resolution, interpolation, expand=0)
    reading = cache.read(visual, (), split, view)

    def features_of(tower: Tower, rows: Array) -> Float[Array, "n d"]:
        return feature(tower, rows, reading.start).astype(jnp.float32)

    return tower_outputs(
        features_of, visual, reading, "Features", mesh=cache.mesh, batch=cache.batch,
        console=cache.console,
    )  # fmt: skip


def head_from_class_means(
    features: Iterable[Features], start: Float[Array, "c d"]
) -> Float[Array, "c d"]:
    """Returns the mean feature of each class, normalised to unit length.

    A class without images keeps its row of `start`.
    """
    total, has_images = np.zeros(start.shape), np.zeros(len(start), bool)
    for rows, labels in features:
        np.add.at(total, labels, rows)  # a sum is enough: only its direction matters
        has_images[labels] = True
    return jnp.where(has_images[:, None], l2_normalise(jnp.asarray(total, jnp.float32)), start)


def head_from_linear_probe(
    features: Iterable[Features], start: Float[Array, "c d"], console: Console
) -> Float[Array, "c d"]:
    """Returns the weights of a logistic regression on the features, normalised to unit length.

    The regression is scikit-learn's, with its default options except class_weight="balanced". It
    runs on the host in float64. A class without images keeps its row of `start`. Raises UserError
    unless two classes have images.
    """
    from sklearn.exceptions import ConvergenceWarning  # imported here because it is slow
    from sklearn.linear_model import LogisticRegression

    parts = list(features)
    rows = np.concatenate([part for part, _ in parts]).astype(np.float64)
    labels = np.concatenate([part for _, part in parts])
    present = np.unique(labels)
    if len(present) < 2:
        raise UserError(
            "head.init is 'linear_probe', but all images are of one class: give class_mean."
        )
    needed = 2 * len(rows) * len(present) * 8  # bytes of logits and their gradient
    memory = f", in about {decimal(needed)} of memory" if needed >= 1e9 else ""
    console.print(
        f"Head: fitting a linear probe to {len(rows):,} images of {len(present):,} classes{memory}."
    )
    probe = LogisticRegression(max_iter=PROBE_STEPS, class_weight="balanced")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe.fit(rows, labels)
    if probe.n_iter_.max() >= PROBE_STEPS:
        console.print(
            f"Head: the linear probe stopped after {PROBE_STEPS} steps, the limit of the papers."
        )
    fitted = probe.coef_ if len(present) > 2 else np.concatenate([-probe.coef_, probe.coef_])
    weight = np.array(start)
    weight[present] = l2_normalise(jnp.asarray(fitted, jnp.float32))
    # CPUs may round differently, and every process needs the same start.
    return jnp.asarray(multihost_utils.broadcast_one_to_all(weight))


def unit_row_head(classes: int, width: int, key: Array) -> Float[Array, "c d"]:
    """Draws rows uniformly from (-1, 1) and normalises them to unit length."""
    return l2_normalise(jax.random.uniform(key, (classes, width), jnp.float32, -1, 1))


def kaiming_head(classes: int, width: int, key: Array) -> Float[Array, "c d"]:
    """Draws from a normal distribution of variance 2 / width, the start of LIFT's linear head."""
    return jax.random.normal(key, (classes, width), jnp.float32) * (2 / width) ** 0.5
