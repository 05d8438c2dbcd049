"""Sizes that cannot fit are refused with an estimate, before anything is allocated."""

from dataclasses import replace

import pytest

from lift_jax import settings
from lift_jax.errors import UserError
from lift_jax.models.backbone import BackboneConfig
from lift_jax.models.blocks import backward
from lift_jax.models.resnet import ResNetConfig
from lift_jax.models.vit.config import VisionConfig
from lift_jax.parallel import memory
from lift_jax.settings.config_file import override
from lift_jax.settings.parse import parse
from lift_jax.training.classifier import check_names
from lift_jax.training.needs import needed_memory
from lift_jax.training.start import remat as remat_module
from lift_jax.training.start.remat import choose_remat

VIT_B16 = BackboneConfig(VisionConfig(224, 16, 768, 12, 12, 3072))


def check(*changes, devices=1):
    config = settings.load("demo", "debug")
    override(config, changes)
    parsed = parse(config)
    names = check_names(parsed)
    remat = choose_remat(parsed, names, VIT_B16, devices).chosen
    parsed = replace(parsed, train=replace(parsed.train, remat=remat))
    memory.check(needed_memory(parsed, names, VIT_B16, devices))


@pytest.fixture(autouse=True)
def eight_gigabytes(monkeypatch):
    monkeypatch.setattr(memory, "machine_memory", lambda: 8 * 10**9)
    monkeypatch.setattr(memory, "device_memory", lambda: 8 * 10**9)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("train.batch", "1000000", "train.batch=1000000 needs at least 59.6 TB for activations"),
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
        [("test.crops", "random"), ("test.views", "100000"), ("train.batch", "8")],
    ],
)
def test_sizes_beside_the_batch(changes, monkeypatch):
    monkeypatch.setattr(memory, "device_memory", lambda: 10**9)
    with pytest.raises(UserError, match=f"{changes[0][0]}|{changes[1][0]}"):
        check(*changes)


def test_what_fits_is_not_refused():
    check()
    check(("train.batch", "128"), ("tuner.dim", "64"))
    check(("train.batch", "512"), ("train.remat", "blocks"))
    check(("train.batch", "65536"), ("train.accum", "1024"))
    check(("train.batch", "65536"), ("tuner.name", "none"))
    check(("train.batch", "65536"), devices=1024)


def test_memory_that_is_not_known_refuses_nothing(monkeypatch):
    monkeypatch.setattr(memory, "machine_memory", lambda: None)
    monkeypatch.setattr(memory, "device_memory", lambda: None)
    check(("train.batch", "1000000"), ("data.workers", "4000"))


RESNET = BackboneConfig(ResNetConfig(224, 2048, 64, (64, 128, 256, 512), (3, 4, 6, 3), 0))
GB = 10**9


@pytest.mark.parametrize(
    ("changes", "backbone", "lean", "fused", "held", "expected", "why"),
    [
        ([], VIT_B16, True, False, 1, "none", "CPUs"),
        ([("train.remat", "blocks")], VIT_B16, True, False, 1, "blocks", ""),
        ([("train.remat", "none")], VIT_B16, False, True, 1, "none", ""),
        ([], RESNET, False, True, 1, "none", "ResNet"),
        ([], VIT_B16, False, True, None, "none", "memory"),
        # 512 images x 11 blocks x 13 arrays x 196 tokens x 768 numbers x 2 bytes = 22.0 GB
        # and 2 arrays of a residual stream in float32, of 2 more bytes a number: 25.4 GB
        ([("train.batch", "512"), ("model.residual", "float32")], VIT_B16, False, True, 28 * GB,
         "dots", "25.4 GB"),
        ([("train.batch", "512")], VIT_B16, False, True, 28 * GB, "none", "22.0 GB"),
        ([("train.batch", "512")], VIT_B16, False, True, 27 * GB, "dots", "22.0 GB"),
        # 20 + 3 x 12 x 196 / 768 arrays = 29.2
        ([("train.batch", "512")], VIT_B16, False, False, 28 * GB, "dots", "49.5 GB"),
        ([("train.batch", "512"), ("train.accum", "4")], VIT_B16, False, False, 28 * GB, "none",
         "12.4 GB"),
        ([("train.batch", "512"), ("tuner.partial", "2")], VIT_B16, False, True, 28 * GB, "none",
         "2.0 GB"),
    ],
)  # fmt: skip
def test_what_auto_computes_again(changes, backbone, lean, fused, held, expected, why, monkeypatch):
    config = settings.load("demo", "debug")
    half = [("model.precision", "bfloat16"), ("model.residual", "same")]
    override(config, [*half, ("tuner.name", "adaptformer"), *changes])
    parsed = parse(config)
    monkeypatch.setattr(backward, "is_lean", lambda: lean)
    monkeypatch.setattr(remat_module, "has_fused_attention", lambda: fused)
    monkeypatch.setattr(remat_module, "device_memory", lambda: held)
    found = choose_remat(parsed, check_names(parsed), backbone, 1)
    assert found.chosen == expected
    assert why in found.why and bool(why) == bool(found.why)


def test_a_config_without_remat_means_none():
    config = settings.load("demo", "debug")
    assert parse(config).train.remat == "auto"
    with config.unlocked():
        del config.train.remat
    assert parse(config).train.remat == "none"
