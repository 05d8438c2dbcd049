"""Initialisation of the head: from class names, from training images, or at random (LIFT section
4.2)."""

import warnings
from collections.abc import Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array, Float, Int
from rich.console import Console

from lift_jax.data.images import views
from lift_jax.data.types import Split
from lift_jax.errors import UserError
from lift_jax.evaluation.activations import Cache
from lift_jax.evaluation.forward import feature
from lift_jax.models import tree
from lift_jax.models.backbone import Backbone, Tower
from lift_jax.models.heads import l2_normalise
from lift_jax.models.text import TextTransformer
from lift_jax.output.terminal import track
from lift_jax.weights.tokenizer import Tokenizer

CHUNK = 256  # texts encoded at once, so that any number of texts fits in memory
TOKENISED = 4096  # texts tokenised at once
PROBE_STEPS = 100  # largest number of L-BFGS steps, as in the authors' code

Features = tuple[Float[np.ndarray, "m d"], Int[np.ndarray, "m"]]  # features and labels of images


def tokenise(
    tokenizer: Tokenizer, texts: Sequence[str], tower: TextTransformer
) -> Int[np.ndarray, "n t"]:
    """Returns the tokens of the texts, with as many columns as the longest text needs.

    Raises UserError if the tokenizer knows more tokens than the text tower.
    """
    slices = range(0, len(texts), TOKENISED)
    tokens = np.concatenate([tokenizer(texts[i : i + TOKENISED]) for i in slices])
    if tokens.max() >= tower.config.vocab:
        raise UserError(
            f"The tokenizer gives token {tokens.max()}, but the backbone's text tower has only "
            f"{tower.config.vocab} (config.json, text_config.vocab_size): they do not belong "
            "together. Copy tokenizer and weights from the same model."
        )
    if tower.config.pool == "eot":
        # Columns of padding come after every end token, to which a causal tower does not attend.
        tokens = tokens[:, : int(np.flatnonzero(tokens.any(axis=0)).max()) + 1]
    return tokens


def class_texts(
    backbone: Backbone, tokenizer: Tokenizer, texts: Sequence[Sequence[str]], console: Console
) -> Float[Array, "c e"]:
    """Returns the mean projected text feature of each class, f32[classes embed].

    `texts` holds the texts of each class. Their features are normalised to unit length, averaged,
    and normalised again. Raises UserError if the tokenizer knows more tokens than the text tower.
    """
    tower, proj = backbone.text, backbone.text_proj
    assert tower is not None
    sizes = [len(own) for own in texts]
    owner = np.repeat(np.arange(len(texts)), sizes)  # the class of each text
    flat = [text for own in texts for text in own]
    tokens = tokenise(tokenizer, flat, tower)
    graph, leaves = tree.flatten(tower)

    @jax.jit
    def encode(leaves: tree.Tree, proj: Array | None, rows: Array) -> Array:
        features = tree.merge(graph, leaves)(rows).astype(jnp.float32)
        return l2_normalise(features if proj is None else features @ proj.astype(jnp.float32))

    leaves = {path: leaf[...] for path, leaf in leaves.items()}
    matrix = None if proj is None else proj[...]
    size = min(CHUNK, len(tokens))
    padded = np.pad(tokens, ((0, -len(tokens) % size), (0, 0)), mode="edge")
    total = np.zeros((len(texts), backbone.config.embed))
    if len(flat) > len(texts):
        console.print(f"Encoding {len(flat):,} texts of {len(texts):,} classes.")
    for i in track(
        range(0, len(padded), size), "Class texts", console=console,
        disable=not console.is_terminal,
    ):  # fmt: skip
        with jax.default_matmul_precision("highest"):
            rows = np.asarray(encode(leaves, matrix, padded[i : i + size]))
        classes = owner[i : i + size]
        np.add.at(total, classes, rows[: len(classes)])
    return l2_normalise(jnp.asarray(total / np.array(sizes)[:, None], jnp.float32))


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

    return cache.run_tower(features_of, visual, reading, "Features")


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
    gigabytes = 2 * len(rows) * len(present) * 8 / 1e9  # logits and their gradient
    memory = f", in about {gigabytes:.0f} GB of memory" if gigabytes >= 1 else ""
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
