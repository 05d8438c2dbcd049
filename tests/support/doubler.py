"""A config file that defines a tuner, as a user would write it."""

import jax.numpy as jnp

from lift_jax import settings
from lift_jax.tuners import TUNERS, Tuned, Tuner


class Doubler(Tuner):
    """Doubles the output of every value projection."""

    merges = True

    def __init__(self, site, *, rngs):
        self.factor = Tuned(jnp.full((), 2.0))

    def linear(self, name, y, out):
        return self.factor[...] * out if name == "v" else out

    def fold(self, name, kernel, bias):
        return self.linear(name, None, kernel), self.linear(name, None, bias)


TUNERS["doubler"] = Doubler


def get_config(argument=None):
    return settings.load("demo", argument)
