"""Pillow's resize of 8-bit images as two products with constant matrices, equal in every bit.

Pillow resizes one axis after the other. It weights pixels in fixed point, and rounds and clips to
8 bits after each axis.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import PIL
from jaxtyping import Array, Int, UInt8
from PIL import Image

from lift_jax.data.images import views
from lift_jax.data.images.resize import FILTERS
from lift_jax.errors import UserError

BITS = 22  # of Pillow's fixed point: 32 bits without 8 for the pixel and 2 for sums above 255
ROWS = 512  # of an identity matrix that is resized at once

Images = UInt8[Array, "b h w 3"]


def weights(
    size: int, to: int, start: int, count: int, resample: Image.Resampling
) -> Int[np.ndarray, "size count"]:
    """Returns Pillow's weights, in units of 2^-22, for pixels start to start + count - 1 of `to`.

    Pillow resizes 32-bit integers with the same weights in float64 and rounds the result. So the
    resized rows of an identity matrix, times 2^22, are its weights in fixed point.
    """
    parts = []
    for first in range(0, size, ROWS):
        unit = np.eye(min(ROWS, size - first), size, first, dtype=np.int32) << BITS
        resized = Image.fromarray(unit).resize((to, len(unit)), resample)
        parts.append(np.asarray(resized)[:, start : start + count])
    return np.concatenate(parts)


def test_view(height: int, width: int, view: views.TestTransform) -> Callable[[Images], Images]:
    """Returns the function from images of one size to their views: `view` as a JAX function.

    Pillow chooses by size which axis comes first. Here the order is the one that gives Pillow's
    pixels on an image of noise. Raises UserError if neither order gives them.
    """
    cut = view.cuts(height, width)[0]
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    resample = FILTERS[view.interpolation]
    down = weights(height, cut.size[0], cut.place[0], view.res, resample)
    across = weights(width, cut.size[1], cut.place[1], view.res, resample)
    expected = view(noise)
    for down_first in (False, True):

        def shown(images: Images, down_first: bool = down_first) -> Images:
            planes = images.astype(jnp.int32).transpose(0, 3, 1, 2)
            if down_first:
                planes = _along(_along(planes.swapaxes(2, 3), down).swapaxes(2, 3), across)
            else:
                planes = _along(_along(planes, across).swapaxes(2, 3), down).swapaxes(2, 3)
            return planes.transpose(0, 2, 3, 1).astype(jnp.uint8)

        if np.array_equal(jax.jit(shown)(noise[None])[0], expected):
            return shown
    raise UserError(
        f"Pillow {PIL.__version__} resizes images of {height} x {width} pixels in another way than "
        "is known here. Export without --input_size: the images are then resized before the model."
    )


def _along(x: Int[Array, "b c h w"], matrix: Int[np.ndarray, "w v"]) -> Int[Array, "b c h v"]:
    """Returns x resized along its last axis, rounded and clipped to 0..255."""
    sums = jnp.matmul(x, jnp.asarray(matrix)) + (1 << (BITS - 1))
    return jax.lax.div(jnp.clip(sums, 0, (256 << BITS) - 1), jnp.int32(1 << BITS))
