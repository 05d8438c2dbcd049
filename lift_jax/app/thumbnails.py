"""Small JPEGs of images, as the page shows them."""

import io

from PIL import Image

from lift_jax.data.images.decode import Picture
from lift_jax.data.types import Images

SIDE = 240  # pixels of the longer side: sharp on dense screens at half of it


def jpeg(picture: Picture) -> bytes:
    """Returns a small JPEG of a whole image. Raises UserError if its pixels cannot be decoded."""
    width, height = picture.width, picture.height
    scale = min(1.0, SIDE / max(width, height))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    pixels = picture.resized((0, 0, width, height), size, "bicubic")
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=85)
    return file.getvalue()


def of(images: Images, i: int) -> bytes:
    """Returns a small JPEG of image i. Raises UserError if it cannot be read."""
    return jpeg(Picture.of(images[i]))
