"""The defaults of every config: LIFT+ with AdaptFormer on CLIP ViT-B/16.

    lift-jax settings                   all settings with their defaults and meanings
    lift-jax settings train.lr          one setting

The other configs change what their data set needs. Each takes an argument after a colon:

    --config=inat:backbone=clip_vit_l14,method=lift,tuner=full
    --config=inat:debug                 two steps on made-up images, offline

Each setting can also be changed on the command line: --config.train.epochs=3
"""

from ml_collections import ConfigDict

from lift_jax.settings import finish, start


def get_config(argument: str | None = None) -> ConfigDict:
    return finish(start(argument), argument)
