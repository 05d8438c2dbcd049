"""How the head starts: from the names of the classes, from their images, or at random
(LIFT section 4.2)."""

import warnings
from collections.abc import Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array, Float, Int
from rich.console import Console
from rich.progress import track

from lift_jax.data.images import views
from lift_jax.data.types import Split
from lift_jax.errors import UserError
from lift_jax.evaluation.activations import Cache
from lift_jax.evaluation.forward import feature
from lift_jax.models import tree
from lift_jax.models.backbone import Backbone, Tower
from lift_jax.models.heads import normalise
from lift_jax.models.text import TextTransformer
from lift_jax.weights.tokenizer import Tokenizer

CHUNK = 256  # texts encoded at once: any number of them fits in memory
TOKENISED = 4096  # texts tokenised at once
PROBE_STEPS = 100  # of L-BFGS, as the authors give it

Features = tuple[Float[np.ndarray, "m d"], Int[np.ndarray, "m"]]  # of images, and their labels


def tokenise(
    tokenizer: Tokenizer, texts: Sequence[str], tower: TextTransformer
) -> Int[np.ndarray, "n t"]:
    """The tokens of the texts, as many columns as the longest needs.

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
        # columns of padding alone come after every end token, where the causal tower does not look
        tokens = tokens[:, : int(np.flatnonzero(tokens.any(axis=0)).max()) + 1]
    return tokens


def class_texts(
    backbone: Backbone, tokenizer: Tokenizer, texts: Sequence[Sequence[str]], console: Console
) -> Float[Array, "c e"]:
    """The mean projected feature of each class's texts, each of unit length and the mean too.

    In float32. Raises UserError if the tokenizer knows more tokens than the text tower.
    """
    tower, proj = backbone.text, backbone.text_proj
    assert tower is not None
    sizes = [len(own) for own in texts]
    owner = np.repeat(np.arange(len(texts)), sizes)
    flat = [text for own in texts for text in own]
    tokens = tokenise(tokenizer, flat, tower)
    graph, leaves = tree.flatten(tower)

    @jax.jit
    def encode(leaves: tree.Tree, proj: Array | None, rows: Array) -> Array:
        features = tree.merge(graph, leaves)(rows).astype(jnp.float32)
        return normalise(features if proj is None else features @ proj.astype(jnp.float32))

    leaves = {path: leaf[...] for path, leaf in leaves.items()}
    matrix = None if proj is None else proj[...]
    size = min(CHUNK, len(tokens))
    padded = np.pad(tokens, ((0, -len(tokens) % size), (0, 0)), mode="edge")
    total = np.zeros((len(texts), backbone.config.embed))
    if len(flat) > len(texts):
        console.print(f"Encoding {len(flat):,} texts of {len(texts):,} classes.")
    for i in track(
        range(0, len(padded), size), "Class texts", console=console, transient=True,
        disable=not console.is_terminal,
    ):  # fmt: skip
        with jax.default_matmul_precision("highest"):
            rows = np.asarray(encode(leaves, matrix, padded[i : i + size]))
        some = owner[i : i + size]
        np.add.at(total, some, rows[: len(some)])
    return normalise(jnp.asarray(total / np.array(sizes)[:, None], jnp.float32))


def head_from_texts(
    texts: Float[Array, "c e"], image_proj: Float[Array, "d e"] | None
) -> Float[Array, "c d"]:
    """Semantic-aware initialisation: texts of unit length back through the image projection.

    Image features that lie in the space of the texts already have no projection.
    """
    if image_proj is None:
        return normalise(texts)
    with jax.default_matmul_precision("highest"):
        return normalise(texts @ image_proj.astype(jnp.float32).T)


def some_of_each(labels: Int[np.ndarray, "n"], most: int, seed: int) -> Int[np.ndarray, "m"]:
    """Indices of at most so many images of each class, drawn by the seed, in order."""
    order = np.random.default_rng(seed).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    first = np.searchsorted(labels[by_class], labels[by_class])  # where its class begins
    return np.sort(by_class[np.arange(len(labels)) - first < most])


def image_features(
    visual: Tower, train: Split, *, shots: int, seed: int, interpolation: str, cache: Cache
) -> Iterator[Features]:
    """Yields features and labels of at most `shots` images a class (0: all), as drawn by the seed.

    Images are seen whole (short side to the resolution, centre crop) by the untuned tower, or their
    features come from the cache. Every process gets all of them.
    """
    split = train.take(some_of_each(train.labels, shots, seed)) if shots else train
    view = views.TestTransform(visual.config.resolution, interpolation, expand=0)
    reading = cache.read(visual, (), split, view)

    def features_of(tower: Tower, rows: Array) -> Float[Array, "n d"]:
        return feature(tower, rows, reading.start).astype(jnp.float32)

    return cache.through(features_of, visual, reading, "Features")


def head_from_class_means(
    features: Iterable[Features], start: Float[Array, "c d"]
) -> Float[Array, "c d"]:
    """The mean feature of each class, of unit length; without images, its row of `start`."""
    total, seen = np.zeros(start.shape), np.zeros(len(start), bool)
    for rows, labels in features:
        np.add.at(total, labels, rows)  # the sum will do: only its direction matters
        seen[labels] = True
    return jnp.where(seen[:, None], normalise(jnp.asarray(total, jnp.float32)), start)


def head_from_linear_probe(
    features: Iterable[Features], start: Float[Array, "c d"], console: Console
) -> Float[Array, "c d"]:
    """The weights of a logistic regression on the features, brought to unit length.

    scikit-learn's, at its defaults but for classes that weigh the same; on the host, in float64. A
    class without images keeps its row of `start`. Raises UserError unless two classes have images.
    """
    from sklearn.exceptions import ConvergenceWarning  # here, for it is slow to import
    from sklearn.linear_model import LogisticRegression

    parts = list(features)
    rows = np.concatenate([part for part, _ in parts]).astype(np.float64)
    labels = np.concatenate([part for _, part in parts])
    seen = np.unique(labels)
    if len(seen) < 2:
        raise UserError(
            "head.init is 'linear_probe', but all images are of one class: give class_mean."
        )
    gigabytes = 2 * len(rows) * len(seen) * 8 / 1e9  # logits and their gradient
    memory = f", in about {gigabytes:.0f} GB of memory" if gigabytes >= 1 else ""
    console.print(
        f"Head: fitting a linear probe to {len(rows):,} images of {len(seen):,} classes{memory}."
    )
    probe = LogisticRegression(max_iter=PROBE_STEPS, class_weight="balanced")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe.fit(rows, labels)
    if probe.n_iter_.max() >= PROBE_STEPS:
        console.print(
            f"Head: the linear probe stopped after {PROBE_STEPS} steps, as the papers' do."
        )
    found = probe.coef_ if len(seen) > 2 else np.concatenate([-probe.coef_, probe.coef_])
    weight = np.array(start)
    weight[seen] = normalise(jnp.asarray(found, jnp.float32))
    # another CPU may round otherwise, and every process needs the same start
    return jnp.asarray(multihost_utils.broadcast_one_to_all(weight))


def unit_row_head(classes: int, width: int, key: Array) -> Float[Array, "c d"]:
    """Rows uniform in (-1, 1), brought to unit length."""
    return normalise(jax.random.uniform(key, (classes, width), jnp.float32, -1, 1))


def kaiming_head(classes: int, width: int, key: Array) -> Float[Array, "c d"]:
    """Normal of variance 2 / width: what LIFT's linear head starts from."""
    return jax.random.normal(key, (classes, width), jnp.float32) * (2 / width) ** 0.5
