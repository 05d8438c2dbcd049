"""The authors' code, LIFT and LIFT+: its checkpoints, what they hold, and its names of weights."""

from lift_jax.weights.authors.checkpoint import (
    check_mask,
    describe,
    read,
    table_of,
    write,
)
from lift_jax.weights.authors.contents import MASKS, Contents

__all__ = ["MASKS", "Contents", "check_mask", "describe", "read", "table_of", "write"]
