"""Settings: what a user can set, how a config file sets it, and how it is checked.

Config files use `start` and `finish`; a config of your own may begin from a shipped one:

    from lift_jax import settings

    def get_config(argument=None):
        c = settings.load("demo", argument)
        c.train.lr = 0.01
        return c
"""

from lift_jax.settings.argument import finish, start
from lift_jax.settings.config_file import load
from lift_jax.settings.parse import parse
from lift_jax.settings.schema import Settings

__all__ = ["Settings", "finish", "load", "parse", "start"]
