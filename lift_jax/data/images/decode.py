"""Decoding of one encoded image to pixels.

Every fault of a file ends in a `UserError` that names it, also in a loader's thread or worker
process.
"""

import io
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from lift_jax.data.images import upper
from lift_jax.data.images.formats import FORMATS, openable
from lift_jax.data.images.resize import Box, mirrored, resize
from lift_jax.errors import UserError
from lift_jax.storage import addresses
from lift_jax.storage.reading import open_regular

MAX_PIXELS = 89_478_485  # the size from which Pillow suspects a decompression bomb
MAX_BYTES = 2**30  # of a file: twice what so many pixels of 16 bits take without compression
KEPT = 1.25  # decode=fast: least side of a reduced crop, relative to its size after resizing
ORIENTATION = 0x0112  # the EXIF tag; 5 to 8 exchange height and width
WHITE_POINT = 318  # the TIFF tag: x and y of the white to which Lab colours are relative
D50 = (0.3457, 0.3585)

# Pillow reads the resolution from EXIF, which is not used here, and warns if it is corrupt, as in
# some images of ImageNet. An image that is too large is an error below, so the warning is not
# needed. The filters are set once because catching warnings around each image is not thread-safe.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
logging.getLogger("PIL").setLevel(logging.CRITICAL)  # faults of files are errors here


class UnreadableImage(UserError):
    """An image that cannot be read: its name, and the cause as the rest of a sentence."""

    def __init__(self, name: str, cause: str):
        super().__init__(name, cause)
        self.name, self.cause = name, cause

    def __str__(self) -> str:
        return (
            f"Cannot read the image {self.name}: {self.cause}. Replace the file, or leave it out "
            "(delete it, or its line in the list)."
        )


@dataclass(frozen=True)
class Decoding:
    """The options of decoding.

    `fast` trades exactness for speed. JPEGs are decoded without smoothing of colours, and resized
    by SIMD code (`resize.resize`). If the sides of a crop are at least 2.5 times the size that it
    is resized to, the JPEG is decoded at 4/8 of its size or less. On crops of two photographs of
    640 x 427 pixels, views of 224 pixels differed by 0.6 of 255 grey levels on average and by 5 at
    the 99th percentile; at a reduced size by 0.3 to 1.9 and 2 to 16.

    `exif` rotates images by their EXIF orientation. torchvision, and so the papers, ignore it.
    """

    fast: bool = False
    exif: bool = False


@dataclass(frozen=True)
class Picture:
    """An image whose size is known before its pixels are decoded.

    `height` and `width` are the size of the original image, in which crops are drawn. `load(least,
    share)` returns the pixels as u8[h w 3], or as u8[h w 4] with a fourth channel to ignore; both
    sides may be reduced by the same factor, which is at least `least`, and rows below that share of
    the height may hold anything.
    """

    height: int
    width: int
    load: Callable[[float, float], UInt8[np.ndarray, "h w c"]]
    fast: bool = False

    @classmethod
    def of(cls, image: "Picture | Image.Image | UInt8[np.ndarray, 'h w 3']") -> "Picture":
        """Wraps an image that is decoded already."""
        if isinstance(image, Picture):
            return image
        pixels = np.asarray(image)
        return cls(*pixels.shape[:2], load=lambda *_: pixels)

    def __array__(self, dtype: object = None, copy: bool | None = None) -> np.ndarray:
        return self.load(1.0, 1.0)[..., :3]

    def mirrored(self) -> "Picture":
        """Returns the image with left and right exchanged."""
        return replace(self, load=lambda *part: mirrored(self.load(*part)))

    def pillow(self) -> Image.Image:
        """Returns the whole image for Pillow, in mode RGB."""
        return Image.fromarray(np.asarray(self))

    def held(self, cuts: Iterable[tuple[Box, tuple[int, int]]]) -> "Picture":
        """Decodes the image once, for these cuts alone: boxes and the (height, width) of each."""
        needs = [self._needs(*cut) for cut in cuts]
        pixels = self.load(*map(max, zip(*needs, strict=True)))
        return replace(self, load=lambda *_: pixels)

    def resized(
        self, box: Box, size: tuple[int, int], interpolation: str,
        window: Box | None = None, mirror: bool = False,
    ) -> UInt8[np.ndarray, "h w 3"]:  # fmt: skip
        """Cuts out a box and resizes it to `size` (height, width).

        Returns the window of the result, mirrored if `mirror` is set.
        """
        pixels = self.load(*self._needs(box, size))
        y, x = pixels.shape[0] / self.height, pixels.shape[1] / self.width
        part = box[0] * x, box[1] * y, box[2] * x, box[3] * y
        return resize(pixels, part, size, interpolation, window, mirror, self.fast)

    def _needs(self, box: Box, size: tuple[int, int]) -> tuple[float, float]:
        """Returns the arguments of `load` for a box that is resized to `size` (height, width)."""
        least = max(size[1] / (box[2] - box[0]), size[0] / (box[3] - box[1]))
        return min(1.0, least), box[3] / self.height


def read_image(path: str | os.PathLike, how: Decoding = Decoding()) -> Picture:
    """Reads the image of a file, as `open_image` does."""
    return open_image(read_bytes(path), os.fspath(path), how)


def read_bytes(path: str | os.PathLike) -> bytes:
    """Returns the content of an image file. Raises UserError as `open_image`."""
    with _named(os.fspath(path)):
        if addresses.is_remote(name := os.fspath(path)):
            fs, place = addresses.file_system(name)
            content = fs.cat_file(place)  # asking for the size first would take as long again
            _check_bytes(len(content))
            return content
        with open_regular(path) as file:
            _check_bytes(os.fstat(file.fileno()).st_size)
            return file.read()


def _check_bytes(size: int) -> None:
    if size > MAX_BYTES:
        raise ValueError(f"the file has {size:,} bytes, too many for an image")


def open_image(content: bytes, name: str, how: Decoding = Decoding()) -> Picture:
    """Returns the image in the bytes of a file; its pixels are not decoded yet.

    Raises UserError, which names the file and the cause, if the image is damaged: now, or when its
    pixels are asked for.
    """
    with _named(name):
        if not content:
            raise ValueError("the file is empty")
        return _jpeg(content, name, how) or _other(content, name, how)


def _jpeg(content: bytes, name: str, how: Decoding) -> Picture | None:
    """Opens an ordinary JPEG by libjpeg-turbo: the same pixels as Pillow's, sooner."""
    if content[:2] != b"\xff\xd8":
        return None
    try:
        sizes: Any = simplejpeg.decode_jpeg_header(content)
    except ValueError:
        return None  # Pillow describes the fault better
    height, width, colours, _ = sizes
    if colours not in ("YCbCr", "Gray") or height * width > MAX_PIXELS:
        return None
    if how.exif:
        with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
            if image.getexif().get(ORIENTATION, 1) != 1:
                return None

    kind = "RGB" if how.fast else "RGBX"  # the one that `resize` reads soonest
    options: dict[str, Any] = {"fastupsample": how.fast}

    def load(least: float, share: float) -> np.ndarray:
        reduced: dict[str, Any] = {}
        if how.fast and (least := KEPT * least) <= 0.5:
            sizes = math.ceil(height * least), math.ceil(width * least)
            reduced = {"min_height": sizes[0], "min_width": sizes[1], "min_factor": 2}
        else:
            rows = math.ceil(share * height)
            pixels = upper.decode(content, (height, width), rows, kind, **options)
            if pixels is not None:
                return pixels
        try:
            return simplejpeg.decode_jpeg(content, kind, **options, **reduced)
        except ValueError:  # damaged, or unusual in a way that Pillow can read
            return _other(content, name, how).load(1.0, 1.0)

    return Picture(height, width, load, how.fast)


def _other(content: bytes, name: str, how: Decoding) -> Picture:
    """Opens any other format, and unusual JPEGs, by Pillow."""
    formats = openable(content)
    with Image.open(io.BytesIO(content), formats=formats) as image:
        height, width = image.height, image.width
        if height * width > MAX_PIXELS:
            raise ValueError(f"it has {width} x {height} pixels, too many to open")
        if how.exif and image.getexif().get(ORIENTATION, 1) >= 5:
            height, width = width, height

    def load(least: float, share: float) -> np.ndarray:
        with _named(name), Image.open(io.BytesIO(content), formats=formats) as image:
            pixels = np.asarray(to_rgb(ImageOps.exif_transpose(image) if how.exif else image))
            if pixels.shape[:2] != (height, width):
                found = f"{pixels.shape[1]} x {pixels.shape[0]}"
                raise ValueError(f"its head states {width} x {height} pixels, and it holds {found}")
            return pixels

    return Picture(height, width, load, how.fast)


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Turns any exception of the block into a UserError that names the file."""
    try:
        yield
    except UserError:
        raise
    # Decoders raise nearly every kind of exception on damaged bytes (OSError, ValueError,
    # SyntaxError, struct.error, EOFError, ...), and the remedy is the same for all.
    except Exception as error:
        cause = str(error)
        if isinstance(error, FileNotFoundError):
            cause = "there is no such file"
        elif isinstance(error, PermissionError):
            cause = "this user may not read it (make it readable)"
        elif isinstance(error, OSError) and error.strerror:  # its message repeats the name
            cause = error.strerror
        elif isinstance(error, UnidentifiedImageError):  # its message names an object in memory
            cause = f"it is no image in a known format ({', '.join(FORMATS)})"
        raise UnreadableImage(name, cause or type(error).__name__) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts an image of any mode to RGB.

    Transparent pixels are laid over white, and 16-bit grey is scaled to 8 bits. Raises ValueError
    if the range of brightness is unknown (floating point, 32-bit integers above 65,535), or if Lab
    colours are relative to another white than D50.
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
    if image.mode == "LAB":
        return _lab_to_rgb(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _lab_to_rgb(image: Image.Image) -> Image.Image:
    """Converts CIE Lab to sRGB, where Pillow's own way interpolates and is off by up to 34 of 255.

    Raises ValueError if the file states another white than D50.
    """
    white = getattr(image, "tag_v2", {}).get(WHITE_POINT)
    if white and max(abs(float(w) - d) for w, d in zip(white, D50, strict=True)) > 0.005:
        raise ValueError("its Lab colours are relative to another white than D50")
    lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    exact = ImageCms.Flags.NOOPTIMIZE
    transform = ImageCms.buildTransform(lab, rgb, "LAB", "RGB", flags=exact)
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None  # it is None for a change in place
    return converted
