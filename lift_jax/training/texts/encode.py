"""The text features of the classes: each text and each shared start once, without padding."""

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from rich.console import Console

from lift_jax.errors import UserError
from lift_jax.models import tree
from lift_jax.models.backbone import Backbone
from lift_jax.models.heads import l2_normalise
from lift_jax.models.text import TextTransformer
from lift_jax.output.terminal import track
from lift_jax.training.texts import groups, kept, prefixes
from lift_jax.weights.tokenizer import Tokenizer

CHUNK = 256  # texts encoded at once, so that any number of texts fits in memory
TOKENISED = 4096  # texts tokenised at once
WIDTHS = 4  # columns by which parts differ: each width is a program that is compiled

Parts = Sequence[Int[np.ndarray, " p"]]  # different texts that are encoded together, by their place


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
    and normalised again. Many texts are encoded once on a machine and kept in the cache folder.
    Raises UserError if the tokenizer knows more tokens than the text tower.
    """
    tower = backbone.text
    assert tower is not None
    sizes = np.array([len(own) for own in texts])
    flat = [text for own in texts for text in own]
    tokens = tokenise(tokenizer, flat, tower)
    file = kept.file_of(backbone, tokens, sizes) if len(flat) > CHUNK else None
    means = None if file is None else kept.read(file, (len(texts), backbone.config.embed))
    if means is not None:
        console.print(f"Encoding: {len(flat):,} texts, as they were kept.")
        return jnp.asarray(means)
    if len(flat) > len(texts):
        console.print(f"Encoding {len(flat):,} texts of {len(texts):,} classes.")
    total = np.zeros((len(texts), backbone.config.embed))
    owner = np.repeat(np.arange(len(texts)), sizes)  # the class of each text
    for part, features in encoded(backbone, tokens, console):
        np.add.at(total, owner[part], features)
    found = jax.jit(l2_normalise)(np.asarray(total / sizes[:, None], np.float32))
    if file is not None:
        kept.write(file, np.asarray(found))
    return found


def distinct(
    tokens: Int[np.ndarray, "n t"],
) -> tuple[Int[np.ndarray, " d"], Int[np.ndarray, " n"]]:
    """Returns the first index of each different text, and the place of each text among these."""
    place: dict[bytes, int] = {}
    inverse = np.array([place.setdefault(row.tobytes(), len(place)) for row in tokens])
    return np.unique(inverse, return_index=True)[1], inverse


def by_length(lengths: Int[np.ndarray, " d"], size: int) -> Parts:
    """Returns texts in parts of at most `size`, short texts first, in their order within a part."""
    order = np.argsort(lengths, kind="stable")
    return [np.sort(order[i : i + size]) for i in range(0, len(order), size)]


def holders(
    parts: Parts, inverse: Int[np.ndarray, " n"]
) -> Iterator[tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"]]]:
    """Yields, for each part, the indices of all texts that it encodes, and the row of each in it.

    `inverse` is the place of each text among the different ones, as `distinct` returns it.
    """
    ranks = np.argsort(np.concatenate(parts))[inverse]
    texts = np.argsort(ranks, kind="stable")
    starts = np.cumsum([0, *map(len, parts)])
    cuts = np.searchsorted(ranks[texts], starts)
    for start, low, high in zip(starts[:-1], cuts[:-1], cuts[1:], strict=True):
        yield texts[low:high], ranks[texts[low:high]] - start


def encoded(
    backbone: Backbone, tokens: Int[np.ndarray, "n t"], console: Console
) -> Iterator[tuple[Int[np.ndarray, " m"], Float[np.ndarray, "m e"]]]:
    """Yields all texts in parts: their indices, and the projected features of each at unit length.

    A causal tower does not see what follows the end of a text, so texts of about the same length
    go together and their padding is cut off; of many texts, the tokens with which several begin are
    encoded once. Any other tower sees all columns. Few texts are one part, in their order.
    """
    tower = backbone.text
    assert tower is not None
    first, inverse = distinct(tokens)
    rows = tokens[first]
    lengths = np.full(len(rows), tokens.shape[1])
    if tower.config.pool == "eot":
        lengths = 1 + np.asarray(tower.ends(rows))
    if len(rows) > CHUNK and prefixes.applies(tower):
        batches = groups.batches(rows, lengths, CHUNK)
        parts = [part.texts for batch in batches for part in batch.parts]
        found = _behind_prefixes(backbone, batches)
    else:
        parts = by_length(lengths, CHUNK)
        found = _whole(backbone, rows, lengths, parts)
    held = list(holders(parts, inverse))
    for texts, of_part in track(
        held, "Class texts", len(held), console=console, disable=not console.is_terminal
    ):
        yield texts, next(found)[of_part]


def _whole(
    backbone: Backbone, tokens: Int[np.ndarray, "d t"], lengths: Int[np.ndarray, " d"], parts: Parts
) -> Iterator[Float[np.ndarray, "p e"]]:
    """Yields the features of each part, whose texts are encoded from their first token on."""
    tower, proj = backbone.text, backbone.text_proj
    assert tower is not None
    graph, leaves = tree.split(tower)

    @jax.jit
    def encode(leaves: tree.Tree, proj: Array | None, rows: Array) -> Array:
        return _projected(tree.merge(graph, leaves)(rows), proj)

    matrix = None if proj is None else proj[...]
    for part in parts:
        longest = int(lengths[part].max())
        if len(parts) > 1:
            longest = min(-(-longest // WIDTHS) * WIDTHS, tokens.shape[1])
        padded = np.pad(part, (0, len(parts[0]) - len(part)), mode="edge")
        with jax.default_matmul_precision("highest"):
            yield np.asarray(encode(leaves, matrix, tokens[padded, :longest]))


def _behind_prefixes(
    backbone: Backbone, batches: Sequence[groups.Batch]
) -> Iterator[Float[np.ndarray, "p e"]]:
    """Yields the features of each part, whose texts are encoded behind their prefixes."""
    assert backbone.text is not None
    encoder, proj = prefixes.Encoder(backbone.text, batches), backbone.text_proj
    matrix, project = None if proj is None else proj[...], jax.jit(_projected)
    for batch in batches:
        with jax.default_matmul_precision("highest"):
            past = encoder.begin(batch)
        for part in batch.parts:
            with jax.default_matmul_precision("highest"):
                features = project(encoder.features(batch, past, part), matrix)
            yield np.asarray(features)


def _projected(features: Array, proj: Array | None) -> Float[Array, "n e"]:
    """Returns features in the shared space, at unit length."""
    features = features.astype(jnp.float32)
    return l2_normalise(features if proj is None else features @ proj.astype(jnp.float32))
