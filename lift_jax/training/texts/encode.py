"""The text features of the classes: each text once, no longer than it is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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
from lift_jax.training.texts import kept
from lift_jax.weights.tokenizer import Tokenizer

CHUNK = 256  # texts encoded at once, so that any number of texts fits in memory
TOKENISED = 4096  # texts tokenised at once
WIDTHS = 4  # columns by which chunks differ: each width is a program that is compiled


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
    for chunk, rows in encoded(backbone, tokens, console):
        np.add.at(total, owner[chunk.texts], rows[chunk.rows])
    found = l2_normalise(jnp.asarray(total / sizes[:, None], jnp.float32))
    if file is not None:
        kept.write(file, np.asarray(found))
    return found


@dataclass(frozen=True)
class Chunk:
    """Texts that are encoded together.

    Attributes:
        tokens: of different texts, with as many columns as the longest of them needs.
        texts: indices of all texts that these are, equal ones included.
        rows: the row of `tokens` that each of them is.
    """

    tokens: Int[np.ndarray, "n t"]
    texts: Int[np.ndarray, " m"]
    rows: Int[np.ndarray, " m"]


def chunks(
    tokens: Int[np.ndarray, "n t"], lengths: Int[np.ndarray, " n"], size: int
) -> Iterator[Chunk]:
    """Yields the texts in chunks of at most `size` different ones, short texts first.

    The order within a chunk is that of the texts.
    """
    place: dict[bytes, int] = {}  # of each text among the different ones
    inverse = np.array([place.setdefault(row.tobytes(), len(place)) for row in tokens])
    first = np.unique(inverse, return_index=True)[1]
    by_length = np.argsort(lengths[first], kind="stable")
    starts = range(0, len(first), size)
    order = np.concatenate([np.sort(by_length[i : i + size]) for i in starts])
    ranks = np.argsort(order)[inverse]  # where each text is in that order
    texts = np.argsort(ranks, kind="stable")
    for start in starts:
        own = first[order[start : start + size]]
        longest = int(lengths[own].max())
        if len(starts) > 1:
            longest = min(-(-longest // WIDTHS) * WIDTHS, tokens.shape[1])
        low, high = np.searchsorted(ranks[texts], (start, start + size))
        held = texts[low:high]
        yield Chunk(tokens[own, :longest], held, ranks[held] - start)


def encoded(
    backbone: Backbone, tokens: Int[np.ndarray, "n t"], console: Console
) -> Iterator[tuple[Chunk, Float[np.ndarray, "m e"]]]:
    """Yields all texts in chunks, with the projected features of each at unit length.

    A causal tower does not see what follows the end of a text, so texts of about the same length
    go together and their padding is cut off. Any other tower sees all columns. Few texts are one
    chunk, in their order.
    """
    tower, proj = backbone.text, backbone.text_proj
    assert tower is not None
    graph, variables = tree.flatten(tower)

    @jax.jit
    def encode(leaves: tree.Tree, proj: Array | None, rows: Array) -> Array:
        features = tree.merge(graph, leaves)(rows).astype(jnp.float32)
        return l2_normalise(features if proj is None else features @ proj.astype(jnp.float32))

    leaves = {path: leaf[...] for path, leaf in variables.items()}
    matrix = None if proj is None else proj[...]
    lengths = np.full(len(tokens), tokens.shape[1])
    if tower.config.pool == "eot":
        lengths = 1 + np.asarray(tower.ends(tokens))
    found = list(chunks(tokens, lengths, CHUNK))
    size = min(CHUNK, len(found[0].tokens))
    for chunk in track(
        found, "Class texts", len(found), console=console, disable=not console.is_terminal
    ):
        padded = np.pad(chunk.tokens, ((0, size - len(chunk.tokens)), (0, 0)), mode="edge")
        with jax.default_matmul_precision("highest"):
            yield chunk, np.asarray(encode(leaves, matrix, padded))
