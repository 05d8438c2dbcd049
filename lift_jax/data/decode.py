"""One image file to pixels.

Every way in which a file can be wrong ends in a `UserError` that names the file, also from a
loader's thread or worker process.
"""

import os
import warnings

import numpy as np
from PIL import Image

from lift_jax.errors import UserError

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # a file's name may lie about these
MAX_PIXELS = 89_478_485  # where Pillow starts to suspect a decompression bomb

# Pillow reads EXIF for the resolution, which nobody uses here, and warns where it is corrupt, as in
# some images of ImageNet. Too large an image is an error below, so its warning would be a second
# message. Set once: catching warnings around each image is not safe in threads.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def read_image(path: str | os.PathLike) -> Image.Image:
    """Returns the image of a file in RGB, as stored: an EXIF orientation is not applied.

    Raises UserError, which names the file and the cause, for whatever is wrong with the file.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"it has {image.width} x {image.height} pixels, too many to open")
            return to_rgb(image)
    # Decoders raise nearly every kind of exception on damaged bytes (OSError, ValueError,
    # SyntaxError, struct.error, EOFError, ...), and the remedy is the same for all.
    except Exception as error:
        cause = "there is no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise UserError(
            f"Cannot read the image {os.fspath(path)}: {cause or type(error).__name__}. "
            "Replace the file, or take it out of the data set (delete it, or its line in the list)."
        ) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts an image of any mode to RGB.

    Transparent pixels are laid over white; 16-bit grey is scaled to 8 bits. Raises ValueError where
    the range of brightness is unknown (floating point, 32-bit integers above 65,535).
    """
    if image.mode == "RGB" and not image.has_transparency_data:
        image.load()
        return image
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range, not 8-bit")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65_535:
            raise ValueError(f"its pixels run from {values.min()} to {values.max()}, not 16-bit")
        return Image.fromarray(((values * 255 + 32_767) // 65_535).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")
