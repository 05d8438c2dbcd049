"""Cutting and enlarging on the device, for images smaller than the network's input.

An image of CIFAR takes 3 kB, its view 150 kB. The loader draws the cuts of a view as for any other
image (`cuts.Cut`) and sends them beside the pixels; the jitted step computes the view. The view
equals Pillow's: the same filters, which read nothing outside the box, in the same two passes, each
rounded to bytes. Because sums run in another order, values halfway between two grey levels can
differ by one: about one value in a few thousand with bicubic, at most one in fifty with bilinear
(the largest difference seen was 2 levels).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32, UInt8

from lift_jax.data.images.cuts import Cut
from lift_jax.data.images.views import TrainTransform, View
from lift_jax.data.types import ArrayImages, Images

# Fields of each axis of a cut: first pixel of the box, its size, its size after resizing, the first
# pixel that is shown, 1 if the view is mirrored, 1 if the filter is bicubic.
FIELDS = 6
PADDING = (0, 1, 1, 0, 0, 0)  # any cut that can be computed, for rows without an image


def sent_shape(images: Images, view: TrainTransform | View) -> tuple[int, int, int] | None:
    """Returns the shape of images that go to the device uncut for this view, or None."""
    if not isinstance(images, ArrayImages) or not isinstance(view, TrainTransform | View):
        return None
    _, height, width, channels = images.pixels.shape
    return (height, width, channels) if max(height, width) < view.res else None


def fields(cuts: list[Cut], view: TrainTransform | View) -> Int32[np.ndarray, "*v 2 6"]:
    """Returns the cuts as numbers, without an axis for the cuts if there is one view."""
    bicubic = view.interpolation == "bicubic"
    rows = [
        [
            (box[axis], box[axis + 2] - box[axis], size[1 - axis], place[1 - axis], flip, bicubic)
            for axis, flip in ((1, False), (0, mirrored))
        ]
        for box, size, place, mirrored in cuts
    ]
    return np.array(rows if len(view.shape) == 4 else rows[0], np.int32)


def padding(view: TrainTransform | View) -> Int32[np.ndarray, "*v 2 6"]:
    """Returns `fields` for a row without an image."""
    return np.broadcast_to(np.array(PADDING, np.int32), (*view.shape[:-3], 2, FIELDS))


def render(
    images: UInt8[Array, "n h w 3"], cuts: Int[Array, "n *v 2 6"], res: int
) -> UInt8[Array, "n *v {res} {res} 3"]:
    """Computes the views of images on the device."""
    high, wide = images.shape[1:3]
    down, across = _weights(cuts[..., 0, :], high, res), _weights(cuts[..., 1, :], wide, res)
    pixels = images.astype(jnp.float32)
    best = jax.lax.Precision.HIGHEST  # else accelerators multiply in bfloat16 or TF32
    rows = _rounded(jnp.einsum("nhwc,n...xw->n...hxc", pixels, across, precision=best))
    views = _rounded(jnp.einsum("n...hxc,n...yh->n...yxc", rows, down, precision=best))
    return views.astype(jnp.uint8)


def _rounded(values: Float[Array, "..."]) -> Float[Array, "..."]:
    return jnp.clip(jnp.floor(values + 0.5), 0, 255)


def _weights(
    axis: Int[Array, "n *v 6"], length: int, res: int
) -> Float[Array, "n *v {res} {length}"]:
    """Returns the weight of each image pixel for each view pixel, along one axis."""
    start, count, size, offset, mirrored, bicubic = (
        axis[..., field, None, None].astype(jnp.float32) for field in range(FIELDS)
    )
    out, source = jnp.arange(res, dtype=jnp.float32)[:, None], jnp.arange(length, dtype=jnp.float32)
    out = jnp.where(mirrored > 0, res - 1 - out, out)
    scale = count / size
    at = start + (out + offset + 0.5) * scale  # on the image, in pixels
    d = jnp.abs(source + 0.5 - at) / jnp.maximum(scale, 1)  # filters widen when reducing
    smooth = jnp.where(d < 1, (1.5 * d - 2.5) * d * d + 1, ((2.5 - 0.5 * d) * d - 4) * d + 2)
    smooth = jnp.where(d < 2, smooth, 0)  # Keys' cubic with a = -1/2
    weights = jnp.where(bicubic > 0, smooth, jnp.maximum(1 - d, 0))
    weights = jnp.where((source >= start) & (source < start + count), weights, 0)
    return weights / weights.sum(axis=-1, keepdims=True)
