"""Automatic sizes of tuners, and the layers that they change."""

import math

from lift_jax.models.tunable import Site


def power_of_two(x: float) -> int:
    """The largest power of two up to x, and 1 where x is smaller."""
    return 2 ** max(0, math.floor(math.log2(x)))


def chosen_layers(site: Site) -> list[str]:
    """The layers of the site that `tuner.parts` names."""
    return [name for name in site.options.layer_names if name in site.weights]
