"""The golden arrays of LIFT and LIFT+ as our leaves."""

from collections.abc import Mapping

import numpy as np

from lift_jax.weights.author_names import TABLES
from lift_jax.weights.rename import Table, their_name, to_ours


def leaves(
    arrays: Mapping[str, np.ndarray],
    prefix: str,
    like: Mapping[str, np.ndarray],
    table: Table = TABLES["lift_plus"],
) -> dict[str, np.ndarray]:
    """All arrays under the prefix ("CASE/param/") by our paths, which are among those of `like`."""
    theirs = {
        f"tuner.{key.removeprefix(prefix)}": array
        for key, array in arrays.items()
        if key.startswith(prefix)
    }
    shapes = {p: a.shape for p, a in like.items() if their_name(p, table)[0] in theirs}
    return dict(to_ours(theirs, shapes, table, prefix))
