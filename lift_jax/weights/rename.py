"""The strict engine that applies rename tables: none missing, none left over, all shapes right.

A table is a list of rules `(our path pattern, their name, layout)`. "Our" paths are those of the
leaves in lift_jax, and "their" names those of the arrays in a source. A pattern is a regular
expression over a whole path ("visual/blocks/(\\d+)/q/kernel"); a name may use its groups
(r"layers.\\1.q"). The layouts are

    same          the array as it is
    linear        the kernel of a linear layer, transposed
    conv          the kernel of a convolution, from (out, in, h, w) to (h, w, in, out)
    stem          the patch stem's convolution, from (width, 3, p, p) to a matrix (p * p * 3, width)
    lead1, lead2  their array has one or two more leading axes of size 1

A layout "same:i/n" or "linear:i/n" takes the i-th of n equal parts of their array along its first
axis. With "~d" behind it that axis is of heads of d numbers, in which their rotary positions pair
neighbours and ours pair the halves.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from lift_jax.errors import UserError, near

NEARBY = 300  # names among which a near one is looked for, which takes long

Table = list[tuple[str, str, str]]


def norm(ours: str, theirs: str) -> Table:
    """Returns the rules of a LayerNorm."""
    return [
        (f"{ours}/scale", f"{theirs}.weight", "same"),
        (f"{ours}/bias", f"{theirs}.bias", "same"),
    ]


def linear(ours: str, theirs: str) -> Table:
    """Returns the rules of a linear layer with bias."""
    return [
        (f"{ours}/kernel", f"{theirs}.weight", "linear"),
        (f"{ours}/bias", f"{theirs}.bias", "same"),
    ]


def parts(ours: str, theirs: str, i: int, n: int, how: str = "") -> Table:
    """Returns the rules of a linear layer that is the i-th of n equal parts of theirs.

    `how` is the end of the layouts.
    """
    return [
        (f"{ours}/kernel", f"{theirs}.weight", f"linear:{i}/{n}{how}"),
        (f"{ours}/bias", f"{theirs}.bias", f"same:{i}/{n}{how}"),
    ]


def _same(a: np.ndarray) -> np.ndarray:
    return a


def _linear(a: np.ndarray) -> np.ndarray:
    return a.T


def _stem(a: np.ndarray) -> np.ndarray:
    return a.transpose(2, 3, 1, 0).reshape(-1, a.shape[0])


def _unstem(a: np.ndarray) -> np.ndarray:
    patch = round((a.shape[0] / 3) ** 0.5)
    return a.reshape(patch, patch, 3, -1).transpose(3, 2, 0, 1)


# layout -> (their array to ours, our array to theirs, number of axes of theirs or None for any)
_LAYOUTS = {
    "same": (_same, _same, None),
    "linear": (_linear, _linear, 2),
    "conv": (lambda a: a.transpose(2, 3, 1, 0), lambda a: a.transpose(3, 2, 0, 1), 4),
    "stem": (_stem, _unstem, 4),
    "lead1": (lambda a: a.reshape(a.shape[1:]), lambda a: a[None], None),
    "lead2": (lambda a: a.reshape(a.shape[2:]), lambda a: a[None, None], None),
}


def _forward(array: np.ndarray, layout: str) -> np.ndarray | None:
    """Returns their array in our layout, or None if its shape does not allow the layout."""
    layout, _, head = layout.partition("~")
    kind, _, part = layout.partition(":")
    forward, _, axes = _LAYOUTS[kind]
    leading = int(kind[-1]) if kind.startswith("lead") else 0
    if axes not in (None, array.ndim) or array.shape[:leading] != (1,) * leading:
        return None
    if part:
        i, n = map(int, part.split("/"))
        if array.ndim == 0 or array.shape[0] % n:
            return None
        array = np.split(array, n)[i]
    if head:
        if array.ndim == 0 or array.shape[0] % int(head):
            return None
        array = _swap(array, (-1, int(head) // 2, 2))
    return forward(array)


def _swap(array: np.ndarray, heads: tuple[int, int, int]) -> np.ndarray:
    """Returns an array whose first axis, seen as (head, i, j), is in the order (head, j, i)."""
    rest = array.shape[1:]
    return array.reshape(*heads, *rest).swapaxes(1, 2).reshape(-1, *rest)


def _their_shape(shape: tuple[int, ...], layout: str) -> tuple[int, ...]:
    """Returns the shape of their array for a leaf of our shape."""
    kind, _, part = layout.partition("~")[0].partition(":")
    first, *rest = _LAYOUTS[kind][1](np.empty(shape, np.int8)).shape or (None,)
    if first is None:
        return ()
    return (first * int(part.split("/")[1]) if part else first, *rest)


def their_name(path: str, table: Table) -> tuple[str, str]:
    """Returns (their name, layout) for our path.

    Raises ValueError unless exactly one rule matches the whole path.
    """
    matches = [
        (match.expand(name), layout)
        for pattern, name, layout in table
        if (match := re.fullmatch(pattern, path))
    ]
    if len(matches) != 1:
        raise ValueError(f"{len(matches)} rules of the rename table match {path!r}, not 1")
    return matches[0]


def to_ours(
    source: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    table: Table,
    where: str,
    ignore: Iterable[str] = (),
    remedy: str = "Check that file and config.json belong together and are of a supported kind.",
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (our path, values in our layout) for every path in `shapes`.

    The values are views of the source's arrays and are read one leaf at a time. Use them only after
    the iterator has come to its end, because faults are raised there, all in one message.

    Args:
        source: the arrays by their names.
        shapes: the shapes of our leaves by path.
        table: the rename table.
        where: the name of the source in messages.
        ignore: patterns of names that may be left over.
        remedy: the last sentence of the message: what to do.

    Raises:
        UserError: at the end, if a name is missing, unexpected, of another shape, not finite or no
            floating-point numbers (quantised weights).
    """
    wanted = {path: their_name(path, table) for path in shapes}
    used = {name for name, _ in wanted.values()}
    extra = sorted(set(source) - used - set(ignored(source, ignore)))
    fitting, faults = _fit(source, shapes, wanted, extra)
    unexpected = [f"unexpected  {name:.200}" for name in extra]
    incomplete = bool(faults or unexpected)
    for path, ours in fitting.items():
        if ours.dtype.kind in "biuc":  # bfloat16 is of kind V
            faults.append(f"not floats  {wanted[path][0]}: it holds {ours.dtype.name}")
        elif not np.isfinite(ours).all():
            faults.append(f"not finite  {wanted[path][0]}: it holds NaN or infinity")
        elif not incomplete:
            yield path, ours
    # without duplicates: q, k and v report one fault of a fused array three times
    faults = list(dict.fromkeys([*faults, *unexpected]))
    if faults:
        raise UserError(
            f"{where} does not hold the expected weights ({len(faults)} of "
            f"{len(used) + len(extra)} names at fault):\n  {_lines(faults)}\n{remedy}"
        )


def _fit(
    source: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    wanted: Mapping[str, tuple[str, str]],
    extra: list[str],
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns the leaves that the source has in the right shape, and the faults of the others.

    `wanted` has (their name, layout) by our path; `extra` are the source's names without a rule.
    """
    fitting, faults = {}, []
    for path, (name, layout) in wanted.items():
        if name not in source:
            close = near(name, extra[:NEARBY])
            hint = f" (near: {', '.join(close)})" if close else ""
            faults.append(f"missing     {name}{hint}")
            continue
        array = source[name]
        ours = _forward(array, layout)
        if ours is None or ours.shape != tuple(shapes[path]):
            expected = _their_shape(shapes[path], layout)
            faults.append(f"wrong shape {name}: expected {expected}, found {array.shape}")
        else:
            fitting[path] = ours
    return fitting, faults


def _lines(faults: list[str], most: int = 12) -> str:
    """Returns the faults as lines sorted by kind, at most `most` of a kind."""

    def kind(fault: str) -> str:
        return fault.split()[0]

    shown = []
    for _, group in itertools.groupby(sorted(faults, key=kind), kind):
        lines = list(group)
        more = len(lines) - most
        shown += [*lines[:most], f"... and {more} more"] if more > 0 else lines
    return "\n  ".join(shown)


def ignored(source: Iterable[str], patterns: Iterable[str]) -> list[str]:
    """Returns the names that one of the patterns matches in full."""
    return [name for name in source if any(re.fullmatch(p, name) for p in patterns)]


def to_theirs(arrays: Mapping[str, np.ndarray], table: Table) -> dict[str, np.ndarray]:
    """Returns our leaves under their names and in their layout: the inverse of `to_ours`."""
    renamed: dict[str, np.ndarray] = {}
    parts: dict[str, dict[str, np.ndarray]] = {}
    for path, array in arrays.items():
        name, layout = their_name(path, table)
        layout, _, head = layout.partition("~")
        kind, _, part = layout.partition(":")
        theirs = np.array(_LAYOUTS[kind][1](array), order="C")
        if head:
            theirs = _swap(theirs, (-1, 2, int(head) // 2))
        if part:
            parts.setdefault(name, {})[part] = theirs
        else:
            renamed[name] = theirs
    for name, pieces in parts.items():
        renamed[name] = np.concatenate([pieces[part] for part in sorted(pieces)])
    return renamed
