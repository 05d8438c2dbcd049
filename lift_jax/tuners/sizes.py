"""Sizes that several tuners choose automatically, and the layers that a tuner changes."""

import math

from lift_jax.models.tunable import Site


def power_of_two(x: float) -> int:
    """Returns the largest power of two that is at most x, and 1 for smaller x."""
    return 2 ** max(0, math.floor(math.log2(x)))


def chosen_layers(site: Site) -> list[str]:
    """Returns the names of the site's layers that tuner.parts chooses."""
    return [name for name in site.settings.layer_names if name in site.weights]
