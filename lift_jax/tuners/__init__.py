"""Tuners: what LIFT and LIFT+ add to a backbone, and how a config file adds one of its own.

    from lift_jax.tuners import TUNERS, Tuned, Tuner

    class Gain(Tuner):
        ...

    TUNERS["gain"] = Gain

A tuner is a subclass of `Tuner`. Its hooks change what a block computes, and every weight that it
creates as `Tuned` is trained, saved and sharded like those of the tuners here.
"""

from lift_jax.models.tunable import Fixed, Site, Tuned, Tuner
from lift_jax.tuners.attach import TUNERS

__all__ = ["TUNERS", "Fixed", "Site", "Tuned", "Tuner"]
