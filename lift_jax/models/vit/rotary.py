"""Rotary positions of the patches of an image (DINOv3, EVA-02, PE-Core)."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lift_jax.models.vit.config import VisionConfig


def rotary_angles(config: VisionConfig) -> Float[Array, "n h"]:
    """Returns the rotary angles of all tokens for one head, f32[tokens width/heads].

    CLS and registers have the angle 0. The centre (y, x) of a patch is multiplied by the d/4
    frequencies rope^(-4 i / d), where d is the width of a head. DINOv3's centres are in -2 pi to
    2 pi, EVA-02's and PE-Core's are the patch's place in a grid with `rope_grid` places a side,
    counted from `rope_start`; the latter's are (x, y). The second half of the angles repeats the
    first.
    """
    c = config
    size = c.width // c.heads
    if c.rope_grid:
        centres = (np.arange(c.grid) + c.rope_start) * (c.rope_grid / c.grid)
        frequencies = 1 / c.rope ** (4 * np.arange(size // 4) / size)
    else:
        centres = (np.arange(c.grid) + 0.5) / c.grid * 2 - 1
        frequencies = 2 * np.pi / c.rope ** (4 * np.arange(size // 4) / size)
    patches = np.stack(np.meshgrid(centres, centres, indexing="ij"), axis=-1).reshape(-1, 2)
    patches = patches[:, ::-1] if c.rope_order == "xy" else patches
    angles = (patches[:, :, None] * frequencies).reshape(len(patches), size // 2)
    angles = np.concatenate([np.zeros((c.prefix, size // 2)), angles])
    return jnp.asarray(np.tile(angles, 2), jnp.float32)
