"""The preparation of a training split: its images, reduced, as JPEGs in a few large files.

Each image is decoded once, its short side is reduced to a size that suffices for training, and it
is encoded again into a shard, an ArrayRecord file. `shards` reads them.
"""

import errno
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from array_record.python.array_record_module import ArrayRecordWriter
from rich.console import Console

from lift_jax.data.images.cuts import short_side_to
from lift_jax.data.images.decode import Picture
from lift_jax.data.prepared import shards
from lift_jax.data.prepared.shards import HEADER, INDEX, PreparedImages
from lift_jax.data.types import EncodedImages, Images, Split
from lift_jax.errors import UserError
from lift_jax.output.terminal import track
from lift_jax.storage import addresses, atomic, disk, lock

SHARD = 512  # images in a shard
QUALITY, COLOURS = 92, "420"  # of JPEG: colours at half the resolution, as in most photographs


def default_size(resolution: int) -> int:
    """Returns the short side to reduce to: 8/7 of the resolution, 256 pixels for 224.

    A crop of at least 77 % of a square image then has a pixel for each pixel of the view. The
    smallest crop of MDA, 8 % of the area, has a side of 72 pixels and is enlarged three times; that
    of an original photograph of 500 x 375 pixels has 122 and is enlarged as well. A short side of
    792 would lose nothing, but most photographs of the papers' data sets are smaller than that.
    """
    return round(resolution * 8 / 7)


def prepare(split: Split, folder: Path, *, size: int, workers: int, console: Console) -> Path:
    """Writes the prepared form of a split to `folder`, `workers` shards at a time; returns it.

    A second call continues after a kill: shards get their names when they are complete, and their
    bytes depend only on the images and `size`. Raises UserError if images are not files, the folder
    holds other images, cannot be written or is being written by another process, or an image cannot
    be read and the split does not skip such images.
    """
    images, stamp = _files(split.images)
    plan = {"stamp": stamp, "size": size, "quality": QUALITY, "count": len(images)}
    begun = folder / f".{INDEX}.begun"
    disk.make_folder(folder, "data.prepared")
    with disk.disk_errors(folder), lock.one_writer(folder):
        _check_plan(folder, (folder / INDEX, begun), plan)
        with atomic.open_replacement(begun) as file:
            json.dump(plan, file)
        count = -(-len(images) // SHARD)
        names = [f"train-{k:05}-of-{count:05}.array_record" for k in range(count)]
        with ThreadPoolExecutor(workers) as pool:  # most time is spent outside Python's lock
            tasks = {
                pool.submit(_write_shard, split, images, folder / name, k * SHARD, size): k
                for k, name in enumerate(names)
            }
            try:
                for task in track(as_completed(tasks), "Preparing", len(tasks), console=console):
                    task.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        index = [
            {
                "name": name,
                "bytes": (folder / name).stat().st_size,
                "crc32": shards.crc_of(folder / name),
            }
            for name in names
        ]
        shards.records.cache_clear()  # of shards of these names that were deleted
        written = len(shards.records(tuple(str(folder / name) for name in names)))
        if written != len(images):
            raise UserError(
                f"{folder} holds {written} records, expected {len(images)}. Delete it and "
                "prepare it again."
            )
        with atomic.open_replacement(folder / INDEX) as file:
            json.dump(plan | {"shards": index}, file, indent=1)
        begun.unlink(missing_ok=True)
    return folder


def _files(images: Images) -> tuple[EncodedImages, str]:
    """Returns the images in files, exactly decoded, and their fingerprint.

    Raises UserError for images in memory or at an address, and if a file is missing.
    """
    if isinstance(images, PreparedImages):
        images = images.taken
    if not isinstance(images, EncodedImages):
        raise UserError("There is nothing to prepare: these images are not files (data.name).")
    if (stamp := shards.stamp_of(images)) is not None:
        return shards.exactly(images), stamp
    names = [images.name(i) for i in range(len(images))]
    if addresses.is_remote(names[0]):
        raise UserError(
            f"{names[0]} lies at an address; images on this machine can be prepared. Copy them "
            "here, and set data.root to the copy."
        )
    missing = next((name for name in names if not os.path.exists(name)), names[0])
    raise UserError(
        f"{missing} cannot be found, so these images cannot be told from others later. Put the "
        "file back, or take it out of the data set (its line in the list)."
    )


def _check_plan(folder: Path, files: Sequence[Path], plan: Mapping[str, Any]) -> None:
    """Raises UserError if a folder was begun with other images or another size."""
    for path in files:
        if not path.exists():
            continue
        found = shards.read_plan(path)
        if found["stamp"] != plan["stamp"]:
            raise UserError(f"{folder} holds other images, prepared before. Delete it first.")
        if any(found[key] != plan[key] for key in plan):
            raise UserError(
                f"{folder} holds these images with a short side of {found['size']}. Delete it "
                f"first, or leave it at {found['size']}."
            )


def _write_shard(split: Split, images: EncodedImages, path: Path, start: int, size: int) -> None:
    if path.exists():
        return  # a shard that has its name is complete
    with atomic.replacement(path) as torn, _shard(torn) as writer:
        for i in range(start, min(start + SHARD, len(images))):
            try:
                writer.write(_record(images, i, size))
            except UserError as error:
                if not split.skip:
                    raise
                writer.write(HEADER.pack(0, 0) + str(error).encode(errors="replace"))


@contextmanager
def _shard(path: Path) -> Iterator[ArrayRecordWriter]:
    """Opens a shard to write. Raises OSError if writing fails: the writer raises other kinds."""
    open(path, "wb").close()
    try:
        writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
        try:
            yield writer
        finally:
            writer.close()
    except RuntimeError as error:  # its message ends with the system's
        said = str(error)
        code = next((code for code in disk.REMEDIES if os.strerror(code) in said), errno.EIO)
        raise OSError(code, os.strerror(code), str(path)) from error


def _record(images: EncodedImages, i: int, size: int) -> bytes:
    """Returns original height and width, then a JPEG: the file's own if it is small enough."""
    picture = images[i]
    height, width = picture.height, picture.width
    pixels = np.ascontiguousarray(picture)  # also decodes files that are kept, as a check
    header = HEADER.pack(height, width)
    if min(height, width) <= size:
        content = images.content(i)
        if content[:2] == b"\xff\xd8" and not images.how.exif:
            return header + content
    else:
        height, width = short_side_to(height, width, size)
        whole = (0, 0, picture.width, picture.height)
        exact = Picture.of(pixels)
        pixels = np.ascontiguousarray(exact.resized(whole, (height, width), "bicubic"))
    return header + simplejpeg.encode_jpeg(pixels, QUALITY, "RGB", COLOURS, fastdct=False)
