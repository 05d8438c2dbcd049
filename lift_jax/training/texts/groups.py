"""Groups of texts that begin with the same tokens, in the order in which they are encoded."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

PREFIX_TOKENS = 1024  # tokens of prefixes whose keys and values are held at once
PROGRAM = 1000  # tokens that a CPU encodes while it compiles one more program (ViT-B/16's tower)
KEY = 0.04  # cost of a further key that a text attends to, in tokens


@dataclass(frozen=True)
class Part:
    """Texts that are encoded together: the tokens behind their prefixes.

    All but `texts` are padded to the number of rows that all parts have.

    Attributes:
        texts: indices of the texts.
        tokens: the tokens behind the prefix of each text, and padding.
        prefixes: the row of each text's prefix in its batch.
        ends: the column of `tokens` that holds the last token of each text.
    """

    texts: Int[np.ndarray, " n"]
    tokens: Int[np.ndarray, "m s"]
    prefixes: Int[np.ndarray, " m"]
    ends: Int[np.ndarray, " m"]


@dataclass(frozen=True)
class Batch:
    """Prefixes that are encoded together, and the texts that begin with them.

    Attributes:
        tokens: the prefixes, padded to the rows and columns that all batches have.
        lengths: the number of tokens of each prefix.
        parts: the texts, short ones first.
    """

    tokens: Int[np.ndarray, "g p"]
    lengths: Int[np.ndarray, " g"]
    parts: list[Part]


def batches(
    tokens: Int[np.ndarray, "n t"], lengths: Int[np.ndarray, " n"], size: int
) -> list[Batch]:
    """Returns all texts in batches, whose parts hold at most `size` texts.

    `lengths` counts the tokens of each text up to its last one, which no prefix contains. What
    comes behind it is ignored.
    """
    tokens = np.where(np.arange(tokens.shape[1]) < lengths[:, None], tokens, 0)
    order = np.lexsort(tokens.T[::-1])
    tokens, lengths = tokens[order], lengths[order]
    deepest, _ = shared(tokens, lengths, tokens.shape[1])
    held, names = shared(tokens, lengths, _most_columns(deepest))
    _, first, own = np.unique(names, return_index=True, return_inverse=True)
    columns = min(max(1, -(-held.max() // 4) * 4), tokens.shape[1])
    count = -(-len(first) // max(1, PREFIX_TOKENS // columns))
    rows = -(-len(first) // count)  # of prefixes in a batch

    behind = lengths - held
    widths = _widths(behind)
    by_batch = np.lexsort((behind, own // rows))
    members = np.split(by_batch, np.searchsorted(own[by_batch], np.arange(rows, len(first), rows)))
    size = _even([len(each) for each in members], size)

    def part(texts: np.ndarray) -> Part:
        padded = np.pad(texts, (0, size - len(texts)), mode="edge")
        width = min(each for each in widths if each >= behind[texts].max())
        at = np.minimum(held[padded, None] + np.arange(width), tokens.shape[1] - 1)
        behind_prefix = np.take_along_axis(tokens[padded], at, axis=1)
        return Part(order[texts], behind_prefix, own[padded] % rows, behind[padded] - 1)

    found = []
    for i, each in enumerate(members):
        firsts = first[i * rows : (i + 1) * rows]
        firsts = np.pad(firsts, (0, rows - len(firsts)), mode="edge")
        parts = [part(each[start : start + size]) for start in range(0, len(each), size)]
        found.append(Batch(tokens[firsts, :columns], held[firsts], parts))
    return found


def shared(
    tokens: Int[np.ndarray, "n t"], lengths: Int[np.ndarray, " n"], most: int
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Returns how many leading tokens each text has in a prefix, and a number for each prefix.

    The texts are sorted. Texts with the same number have the same prefix, of at most `most` tokens;
    short prefixes have small numbers. Texts share further tokens if that saves more than twice what
    it costs: the whole prefix, or those tokens alone if all texts of the shorter prefix do so.
    """
    held, names, members = np.zeros((3, len(tokens)), np.int64)
    alike = np.ones(len(tokens) - 1, bool)  # each text and the next one, up to this column
    for depth in range(1, most + 1):
        alike &= tokens[1:, depth - 1] == tokens[:-1, depth - 1]
        if not alike.any():
            break
        run = np.concatenate([[0], np.cumsum(~alike)])
        longer = lengths > depth
        count = np.bincount(run, longer)[run]
        cost = depth - np.where(count == members, held, 0)
        taken = longer & (count * (depth - held) > 2 * cost)
        held[taken], members[taken] = depth, count[taken]
        names[taken] = depth * len(tokens) + run[taken]
    return held, names


def _most_columns(held: Int[np.ndarray, " n"]) -> int:
    """Returns the length of prefixes beyond which padding costs more than sharing saves."""
    columns = np.arange(held.max() + 1)
    lost = np.array([np.maximum(held - each, 0).sum() for each in columns])
    return int(np.argmin(lost + KEY * len(held) * columns))


def _widths(lengths: Int[np.ndarray, " n"]) -> list[int]:
    """Returns the widths to which texts are padded, so that padding and compilation cost least."""
    values, counts = (each.tolist() for each in np.unique(lengths, return_counts=True))
    best: list[tuple[int, list[int]]] = [(0, [])]  # cost and widths of the shortest texts
    for j, width in enumerate(values, 1):
        ways = [(best[i][0] + PROGRAM + sum(counts[i:j]) * width, i) for i in range(j)]
        cost, i = min(ways)
        best.append((cost, [*best[i][1], width]))
    return best[-1][1]


def _even(counts: list[int], most: int) -> int:
    """Returns the number of rows of parts, at most `most`, that leaves fewest rows empty."""
    sizes = range(most, most // 2, -1)
    return min(sizes, key=lambda size: sum(-(-count // size) * size for count in counts))
