"""What is known of a backbone without a download: its depth, and the resolution of its images."""

from lift_jax.errors import UserError
from lift_jax.models.vit.config import VisionConfig
from lift_jax.weights.load import sizes
from lift_jax.weights.names.hub import DEPTHS

PIXELS = 224  # resolution of most backbones, taken for one that is not on this machine


def depth_of(backbone: str) -> int:
    """Returns the number of blocks of a backbone, also of one that is not on this machine."""
    try:
        vision = sizes(backbone).vision
    except UserError:
        return DEPTHS.get(backbone, 12)
    return vision.layers if isinstance(vision, VisionConfig) else sum(vision.layers)


def resolution_of(backbone: str) -> int | None:
    """Returns the resolution of a backbone in pixels, None for one that is not on this machine."""
    try:
        return sizes(backbone).vision.resolution
    except UserError:
        return None
