"""Golden arrays of LIFT and LIFT+ under our leaf paths."""

from collections.abc import Mapping

import numpy as np

from lift_jax.weights.authors.names import TABLES
from lift_jax.weights.rename import Table, their_name, to_ours


def leaves(
    arrays: Mapping[str, np.ndarray],
    prefix: str,
    like: Mapping[str, np.ndarray],
    table: Table = TABLES["lift_plus"],
) -> dict[str, np.ndarray]:
    """Returns the arrays whose names begin with `prefix` ("CASE/param/") by our paths.

    `like` holds all leaves that there may be, for their paths and shapes.
    """
    theirs = {
        f"tuner.{key.removeprefix(prefix)}": array
        for key, array in arrays.items()
        if key.startswith(prefix)
    }
    shapes = {p: a.shape for p, a in like.items() if their_name(p, table)[0] in theirs}
    return dict(to_ours(theirs, shapes, table, prefix))
