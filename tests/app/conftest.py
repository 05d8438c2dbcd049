"""A small run with calibration and features, trained once, and what answers by it."""

import io

import numpy as np
import pytest
from PIL import Image
from support.runs import train_and_test

from configs import demo
from lift_jax.app.answerer import Answerer


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    config = demo.get_config("debug")
    config.data.name, config.data.imbalance, config.data.val_share = "digits", 20.0, 0.3
    config.train.epochs, config.loss.name, config.test.tte = 1, "ce", False
    workdir = tmp_path_factory.mktemp("run") / "digits"
    train_and_test(config, workdir)
    return workdir


@pytest.fixture(scope="session")
def answerer(run):
    return Answerer(run)


@pytest.fixture(scope="session")
def images():
    """Returns eleven PNGs of several sizes."""
    rng, found = np.random.default_rng(0), []
    for i in range(11):
        file = io.BytesIO()
        pixels = rng.integers(0, 255, (20 + i, 30 + 2 * i, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(file, "PNG")
        found.append(file.getvalue())
    return found
