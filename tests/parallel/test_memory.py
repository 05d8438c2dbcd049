"""Sizes that cannot fit are refused with an estimate, before anything is allocated."""

import pytest

from lift_jax import settings
from lift_jax.errors import UserError
from lift_jax.models.backbone import BackboneConfig
from lift_jax.models.vit import VisionConfig
from lift_jax.parallel import memory
from lift_jax.settings.config_file import override
from lift_jax.settings.parse import parse
from lift_jax.training.classifier import check_names
from lift_jax.training.needs import needed_memory

VIT_B16 = BackboneConfig(VisionConfig(224, 16, 768, 12, 12, 3072))


def check(*changes, devices=1):
    config = settings.load("demo", "debug")
    override(config, changes)
    parsed = parse(config)
    memory.check(needed_memory(parsed, check_names(parsed), VIT_B16, devices))


@pytest.fixture(autouse=True)
def eight_gigabytes(monkeypatch):
    monkeypatch.setattr(memory, "machine_memory", lambda: 8 * 10**9)
    monkeypatch.setattr(memory, "device_memory", lambda: 8 * 10**9)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("train.batch", "1000000", "train.batch=1000000 needs at least 6.6 TB for activations"),
        ("test.batch", "1000000", "test.batch=1000000 needs at least .* for activations"),
        ("data.workers", "4000", "data.workers=4000 needs at least 80.0 GB for worker processes"),
    ],
)
def test_sizes_that_cannot_fit(key, value, says):
    with pytest.raises(UserError, match=f"{says}; this machine has 8.0 GB. Give a smaller {key}"):
        check((key, value))


@pytest.mark.parametrize(
    "changes",
    [
        [("tuner.dim", "1000000"), ("tuner.name", "adaptformer"), ("train.batch", "1")],
        [("tuner.prompts", "100000"), ("tuner.name", "vpt_deep")],
        [("test.crops", "random"), ("test.views", "100000")],
    ],
)
def test_sizes_beside_the_batch(changes, monkeypatch):
    monkeypatch.setattr(memory, "device_memory", lambda: 10**9)
    with pytest.raises(UserError, match=f"{changes[0][0]}|{changes[1][0]}"):
        check(*changes)


def test_what_fits_is_not_refused():
    check()
    check(("train.batch", "512"), ("tuner.dim", "64"))
    check(("train.batch", "65536"), ("train.accum", "1024"))
    check(("train.batch", "65536"), ("tuner.name", "none"))
    check(("train.batch", "65536"), devices=1024)


def test_memory_that_is_not_known_refuses_nothing(monkeypatch):
    monkeypatch.setattr(memory, "machine_memory", lambda: None)
    monkeypatch.setattr(memory, "device_memory", lambda: None)
    check(("train.batch", "1000000"), ("data.workers", "4000"))
