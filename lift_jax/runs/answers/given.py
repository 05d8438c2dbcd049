"""The images that a caller gives: files, folders, patterns, bytes, Pillow images and arrays."""

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image, ImageOps

from lift_jax.data.images import decode
from lift_jax.data.images.formats import SUFFIXES
from lift_jax.data.sources import image_files
from lift_jax.data.sources.image_files import Others
from lift_jax.errors import UserError
from lift_jax.storage.names import expand_user

Given = str | os.PathLike | bytes | bytearray | Image.Image | UInt8[np.ndarray, "h w 3"]


@dataclass(frozen=True, eq=False)
class GivenImages:
    """Images as a caller gives them (`Given`, see `data.types.Images`); `first` numbers them."""

    given: Sequence[Given] = field(repr=False)
    how: decode.Decoding
    first: int = 0

    def __len__(self) -> int:
        return len(self.given)

    def __getitem__(self, i: int) -> decode.Picture | UInt8[np.ndarray, "h w 3"]:
        image = self.given[i]
        if isinstance(image, str | os.PathLike):
            return decode.read_image(image, self.how)
        if isinstance(image, bytes | bytearray):
            return decode.open_image(bytes(image), self.name(i), self.how)
        if isinstance(image, Image.Image):
            try:
                turned = ImageOps.exif_transpose(image) if self.how.exif else image
                return np.asarray(decode.to_rgb(turned))
            except (OSError, ValueError) as e:
                raise UserError(f"{self.name(i)} cannot be read: {e}.") from e
        array = np.asarray(image)
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
            raise UserError(
                f"{self.name(i)}: expected a path, bytes, a Pillow image or an array u8[h w 3], "
                f"found {array.dtype}{list(array.shape)}."
            )
        return array

    def name(self, i: int) -> str:
        """Returns the path of an image, or its number if it has none."""
        image = self.given[i]
        return (
            os.fspath(image) if isinstance(image, str | os.PathLike) else f"image {self.first + i}"
        )

    def take(self, rows: Int[np.ndarray, "m"]) -> "GivenImages":
        """Returns the images with these indices."""
        return GivenImages([self.given[i] for i in rows.tolist()], self.how, self.first)


def _listed(images: Iterable[Given] | Given) -> Iterable[Given]:
    """Returns several images; a single one becomes a list."""
    single = isinstance(images, str | os.PathLike | bytes | bytearray | Image.Image)
    if single or (isinstance(images, np.ndarray) and images.ndim == 3):
        return [images]
    return images


def expanded(images: Iterable[Given] | Given, skip: bool) -> Iterator[Given]:
    """Yields the images one after the other, with folders and patterns replaced by theirs.

    With `skip`, what is none is yielded as it is, and fails where it is read.
    """
    for image in _listed(images):
        try:
            found = files([image])
        except UserError:
            if not skip:
                raise
            found = [image]
        yield from found


def files(images: Iterable[Given] | Given) -> list[Given]:
    """Returns the images, with every folder replaced by the images below it (see `gather`)."""
    return gather(images)[0]


def gather(images: Iterable[Given] | Given) -> tuple[list[Given], Others]:
    """Returns the images, with every folder replaced by the images below it, and the files of these
    folders that are not taken as images.

    Raises UserError for a folder or pattern without images, and for a path that does not exist.
    """
    found: list[Given] = []
    others: list[Others] = []
    for image in _listed(images):
        if not isinstance(image, str | os.PathLike):
            found.append(image)
            continue
        if image == "":  # as a path it would be the folder here, with all its images
            raise UserError("The name of an image is empty; expected a path.")
        path = expand_user(image)
        if not os.path.lexists(path) and glob.has_magic(str(path)):
            matching = sorted(glob.glob(str(path), recursive=True))
            if not matching:
                raise UserError(f"{path}: no image or folder matches this pattern.")
            below, passed_over = gather(matching)
        elif path.is_dir():
            below, passed_over = image_files.images_below(path)
            if not below:
                said = image_files.not_taken(passed_over)
                raise UserError(f"{path} holds no image ({', '.join(SUFFIXES)}). {said}".rstrip())
        elif path.exists():
            below, passed_over = [path], {}
        else:
            raise UserError(f"{path}: there is no such image or folder.")
        found += below
        others.append(passed_over)
    return found, image_files.joined(others)
