"""A config with a tuner of its own, from outside the package."""

import jax.numpy as jnp

from configs import demo
from lift_jax.models.tunable import Tuned, Tuner
from lift_jax.tuners.attach import TUNERS


class Doubler(Tuner):
    """Doubles what every value projection gives."""

    merges = True

    def __init__(self, site, *, rngs):
        self.factor = Tuned(jnp.full((), 2.0))

    def linear(self, name, y, out):
        return self.factor[...] * out if name == "v" else out

    def fold(self, name, kernel, bias):
        return self.linear(name, None, kernel), self.linear(name, None, bias)


TUNERS["doubler"] = Doubler


def get_config(argument=None):
    return demo.get_config(argument)
