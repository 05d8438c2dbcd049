"""Tests of what is known of backbones without a download."""

import pytest

from lift_jax.weights.names import known


@pytest.mark.parametrize(("backbone", "depth"), [
    ("demo", 4), ("debug", 2), ("clip_vit_b16", 12), ("clip_vit_l14_336", 24), ("dinov3_l16", 24),
    ("clip_vit_h14_dfn", 32), ("clip_rn50", 16), ("clip_rn50x4", 26), ("resnet152", 50),
])  # fmt: skip
def test_depths_of_backbones(backbone, depth):
    assert known.depth_of(backbone) == depth


@pytest.mark.parametrize(
    ("backbone", "pixels"), [("demo", 32), ("debug", 32), ("clip_vit_b16", None)]
)
def test_resolutions_of_backbones(backbone, pixels):
    assert known.resolution_of(backbone) == pixels
