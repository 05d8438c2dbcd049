"""Fingerprints of the images of a split, which show whether a split has changed."""

import hashlib
import os
from pathlib import Path

import numpy as np

from lift_jax.data.sources.tfds import TfdsImages
from lift_jax.data.types import ArrayImages, FileImages, Images


def fingerprint_images(images: Images) -> str | None:
    """Fingerprints images in memory by their pixels, and image files by names, sizes and times.

    Image files are not read. Returns None if the images are neither in memory nor in files on this
    machine.
    """
    digest = hashlib.sha256()
    if isinstance(images, ArrayImages):
        digest.update(repr(images.pixels.shape).encode())
        digest.update(np.ascontiguousarray(images.pixels).data)
        return digest.hexdigest()
    if isinstance(images, TfdsImages):
        digest.update(f"{images.how} {images.split} {images.feature} ".encode())
        digest.update(np.asarray(images.rows, np.int64).tobytes())
        files = sorted(str(file) for file in Path(images.home).iterdir())
    elif isinstance(images, FileImages):
        digest.update(str(images.how).encode())
        files = [images.name(i) for i in range(len(images))]
    else:
        return None
    try:
        for file in files:
            stat = os.stat(file)
            digest.update(f"{file}\0{stat.st_size} {stat.st_mtime_ns}\n".encode())
    except OSError:
        return None
    return digest.hexdigest()
