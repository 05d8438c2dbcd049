"""Small data sets for tests, and the config that loads them."""

import os

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from configs import base
from lift_jax.data import datasets
from lift_jax.errors import UserError
from lift_jax.settings import parse


def config(name, **options):
    """Returns the data settings of a data set, checked."""
    made = base.get_config()
    given = {key: str(v) if isinstance(v, os.PathLike) else v for key, v in options.items()}
    made.data.update(ConfigDict(dict(name=name, workers=0) | given))
    return parse(made).data


def load(name, seed=0, **options):
    return datasets.load(config(name, **options), seed)


def message(call):
    with pytest.raises(UserError) as caught:
        call()
    return str(caught.value)


def draw(path, colour=(10, 20, 30), size=(5, 7)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def draw_noise(folder, count, size=(41, 53), seed=()):
    """Writes images 0.png, 1.png, ... of (height, width), each of its own noise."""
    folder.mkdir(parents=True)
    for i in range(count):
        drawn = np.random.default_rng((*seed, i)).integers(0, 255, (*size, 3), np.uint8)
        Image.fromarray(drawn).save(folder / f"{i}.png")


def all_names(split):
    return [split.images.name(i) for i in range(len(split))]


def pixels(split):
    return [np.asarray(split.images[i]) for i in range(len(split))]
