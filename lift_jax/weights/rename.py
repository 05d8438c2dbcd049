"""The strict engine of every rename table: nothing missing, nothing left over, all shapes right.

A table is a list of `(our path pattern, their name, layout)`. Patterns are regular expressions over
whole paths ("visual/blocks/(\\d+)/q/kernel"); their names may use the groups (r"layers.\\1.q").
Layouts are

    same          as it is
    linear        a linear layer's kernel, transposed
    conv          a convolution's kernel, (out, in, h, w) to (h, w, in, out)
    stem          the convolution of the patch stem as a matmul's kernel
    lead1, lead2  theirs has so many more axes of 1 in front

and "same:i/n" or "linear:i/n" where ours is the i-th of n equal parts of theirs, along its first
axis.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from lift_jax.errors import UserError, near

Table = list[tuple[str, str, str]]


def norm(ours: str, theirs: str) -> Table:
    """The rules of a LayerNorm."""
    return [
        (f"{ours}/scale", f"{theirs}.weight", "same"),
        (f"{ours}/bias", f"{theirs}.bias", "same"),
    ]


def linear(ours: str, theirs: str) -> Table:
    """The rules of a linear layer with bias."""
    return [
        (f"{ours}/kernel", f"{theirs}.weight", "linear"),
        (f"{ours}/bias", f"{theirs}.bias", "same"),
    ]


def _same(a: np.ndarray) -> np.ndarray:
    return a


def _linear(a: np.ndarray) -> np.ndarray:
    return a.T


def _stem(a: np.ndarray) -> np.ndarray:
    # convolution (width, 3, p, p) to the matmul's (p * p * 3, width)
    return a.transpose(2, 3, 1, 0).reshape(-1, a.shape[0])


def _unstem(a: np.ndarray) -> np.ndarray:
    patch = round((a.shape[0] / 3) ** 0.5)
    return a.reshape(patch, patch, 3, -1).transpose(3, 2, 0, 1)


# layout -> (their array to ours, ours to theirs, number of their axes or None for any)
_LAYOUTS = {
    "same": (_same, _same, None),
    "linear": (_linear, _linear, 2),
    "conv": (lambda a: a.transpose(2, 3, 1, 0), lambda a: a.transpose(3, 2, 0, 1), 4),
    "stem": (_stem, _unstem, 4),
    "lead1": (lambda a: a.reshape(a.shape[1:]), lambda a: a[None], None),
    "lead2": (lambda a: a.reshape(a.shape[2:]), lambda a: a[None, None], None),
}


def _forward(array: np.ndarray, layout: str) -> np.ndarray | None:
    """Their array as ours; None where its shape does not allow the layout."""
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
    return forward(array)


def _their_shape(shape: tuple[int, ...], layout: str) -> tuple[int, ...]:
    kind, _, part = layout.partition(":")
    first, *rest = _LAYOUTS[kind][1](np.empty(shape, np.int8)).shape or (None,)
    if first is None:
        return ()
    return (first * int(part.split("/")[1]) if part else first, *rest)


def their_name(path: str, table: Table) -> tuple[str, str]:
    """Returns (their name, layout) of our path; exactly one rule must match the whole path."""
    found = [
        (match.expand(name), layout)
        for pattern, name, layout in table
        if (match := re.fullmatch(pattern, path))
    ]
    if len(found) != 1:
        raise ValueError(f"{len(found)} rules of the rename table match {path!r}, not 1")
    return found[0]


def to_ours(
    source: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    table: Table,
    where: str,
    ignore: Iterable[str] = (),
    remedy: str = "Check that file and config.json belong together and are of a supported kind.",
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the leaves named in `shapes`, renamed and laid out, as views of a source's arrays.

    Values are read one leaf at a time, so what was yielded counts only once the iterator has come
    to its end: there it raises UserError, all faults in one message, for names that are missing,
    unexpected (unless a pattern of `ignore` matches them), of another shape, or not finite.
    """
    wanted = {path: their_name(path, table) for path in shapes}
    used = {name for name, _ in wanted.values()}
    extra = sorted(set(source) - used - set(ignored(source, ignore)))
    faults, fitting = [], {}
    for path, (name, layout) in wanted.items():
        if name not in source:
            close = near(name, extra)
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
    unexpected = [f"unexpected  {name}" for name in extra]
    incomplete = bool(faults or unexpected)
    for path, ours in fitting.items():
        if not np.isfinite(ours).all():
            faults.append(f"not finite  {wanted[path][0]}: it holds NaN or infinity")
        elif not incomplete:
            yield path, ours
    faults = list(dict.fromkeys([*faults, *unexpected]))  # a part that is wrong is so three times
    if faults:
        kinds = itertools.groupby(sorted(faults, key=_kind), _kind)
        shown = "\n  ".join(line for _, lines in kinds for line in _first([*lines]))
        raise UserError(
            f"{where} does not hold the expected weights ({len(faults)} of "
            f"{len(used) + len(extra)} names at fault):\n  {shown}\n{remedy}"
        )


def _kind(fault: str) -> str:
    return fault.split()[0]


def _first(lines: list[str], most: int = 12) -> list[str]:
    more = len(lines) - most
    return [*lines[:most], f"... and {more} more"] if more > 0 else lines


def ignored(source: Iterable[str], patterns: Iterable[str]) -> list[str]:
    """The names that one of the patterns matches whole."""
    return [name for name in source if any(re.fullmatch(p, name) for p in patterns)]


def to_theirs(arrays: Mapping[str, np.ndarray], table: Table) -> dict[str, np.ndarray]:
    """The inverse of `to_ours`: our leaves under their names and in their layout."""
    renamed: dict[str, np.ndarray] = {}
    parts: dict[str, dict[str, np.ndarray]] = {}
    for path, array in arrays.items():
        name, layout = their_name(path, table)
        kind, _, part = layout.partition(":")
        theirs = np.array(_LAYOUTS[kind][1](array), order="C")
        if part:
            parts.setdefault(name, {})[part] = theirs
        else:
            renamed[name] = theirs
    for name, pieces in parts.items():
        renamed[name] = np.concatenate([pieces[part] for part in sorted(pieces)])
    return renamed
