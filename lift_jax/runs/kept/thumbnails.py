"""Small JPEGs of whole images, for pages."""

import io

from PIL import Image

from lift_jax.data.images.decode import Picture


def jpeg(picture: Picture, side: int, interpolation: str, quality: int) -> bytes:
    """Returns a JPEG of an image whose longer side is at most `side` pixels.

    `quality` is that of JPEG, up to 95. Raises UserError if the pixels cannot be decoded.
    """
    width, height = picture.width, picture.height
    scale = min(1.0, side / max(width, height))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    pixels = picture.resized((0, 0, width, height), size, interpolation)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=quality)
    return content.getvalue()
