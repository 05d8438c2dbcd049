"""Prepared training splits: small JPEGs in a few large files, which are read fastest.

Each image is decoded once, its short side is reduced to a size that suffices for training, and it
is encoded again into a shard, an ArrayRecord file. Only the training split is prepared, so that
tests see the original images.
"""

import errno
import functools
import hashlib
import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grain
import numpy as np
import simplejpeg
from array_record.python.array_record_module import ArrayRecordWriter
from jaxtyping import Int
from rich.console import Console

from lift_jax.data import fingerprint
from lift_jax.data.images.decode import Picture, open_image
from lift_jax.data.images.views import short_side_to
from lift_jax.data.types import Dataset, EncodedImages, Split
from lift_jax.errors import UserError, shown
from lift_jax.output.terminal import track
from lift_jax.storage import atomic, disk, lock
from lift_jax.storage.cache import cache_folder
from lift_jax.storage.names import expand_user
from lift_jax.storage.reading import DATA_BYTES, read_json

SHARD = 512  # images in a shard
QUALITY, COLOURS = 92, "420"  # of JPEG: colours at half the resolution, as in most photographs
INDEX = "prepared.json"
PLAN = {"stamp": str, "size": int, "quality": int, "count": int}  # keys of the index
PART = {"name": str, "bytes": int, "crc32": int}  # and those of each of its shards
HEADER = struct.Struct("<II")  # height and width of the original image; 0 and 0 if unreadable


def default_size(resolution: int) -> int:
    """Returns the short side to reduce to: 8/7 of the resolution, 256 pixels for 224.

    A crop of at least 77 % of a square image then has a pixel for each pixel of the view. The
    smallest crop of MDA, 8 % of the area, has a side of 72 pixels and is enlarged three times; that
    of an original photograph of 500 x 375 pixels has 122 and is enlarged as well. A short side of
    792 would lose nothing, but most photographs of the papers' data sets are smaller than that.
    """
    return round(resolution * 8 / 7)


@dataclass(frozen=True, eq=False)
class PreparedImages:
    """A prepared split.

    Attributes:
        rows: the index of each image in the shards.
        taken: the original images, which give the names.
    """

    files: tuple[str, ...]
    rows: Int[np.ndarray, "n"]
    taken: EncodedImages = field(repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Picture:
        try:
            record = _records(self.files)[int(self.rows[i])]
            height, width = HEADER.unpack_from(record)
        except Exception as error:  # grain's reader does not document what it raises
            raise UserError(
                f"Cannot read {self.name(i)} in {Path(self.files[0]).parent}: {error}. Delete that "
                "folder and prepare it again."
            ) from error
        content = record[HEADER.size :]
        if not height:
            raise UserError(content.decode())
        picture = open_image(content, self.name(i), replace(self.taken.how, exif=False))
        return replace(picture, height=height, width=width)

    def name(self, i: int) -> str:
        return self.taken.name(i)

    def take(self, rows: Int[np.ndarray, "m"]) -> "PreparedImages":
        return replace(self, rows=self.rows[rows], taken=self.taken.take(rows))


@functools.lru_cache(maxsize=2)
def _records(files: tuple[str, ...]) -> Any:
    """Returns the reader of the shards, which all threads of a process share."""
    return grain.sources.ArrayRecordDataSource(list(files))


# --- use of a prepared split ---


def folder_of(images: EncodedImages, prepared: str) -> Path:
    """Returns the folder of a prepared split: `prepared` (data.prepared), or one in the user's
    cache that depends on the names of the images."""
    if prepared:
        return expand_user(prepared)
    names = "\n".join(images.name(i) for i in range(len(images)))
    key = hashlib.sha256(f"{images.how.exif}\n{names}".encode(errors="surrogateescape"))
    return cache_folder() / "prepared" / key.hexdigest()[:24]


def use(data: Dataset, prepared: str) -> Dataset:
    """Returns the data set with its training split read from the prepared form, if any.

    The notes say that it is used, or why it is not. If `prepared` is "none", the original images
    are read.
    """
    images = data.train.images
    if prepared == "none" or not isinstance(images, EncodedImages):
        return data
    folder = folder_of(images, prepared)
    if not os.path.lexists(folder / INDEX):
        return data
    index = _read_plan(folder / INDEX, ("shards",))
    files = [folder / shard["name"] for shard in index["shards"]]
    sizes = [shard["bytes"] for shard in index["shards"]]
    why = ""
    if index["stamp"] != _stamp(images):
        why = "the images have changed since"
    elif [file.stat().st_size if file.exists() else 0 for file in files] != sizes:
        why = "shards are missing or cut short"
    if why:
        note = f"Warning: the prepared images in {folder} are not used: {why}. Prepare them again."
        return replace(data, notes=(*data.notes, note))
    rows = np.arange(len(images))
    split = replace(data.train, images=PreparedImages(tuple(map(str, files)), rows, images))
    note = f"Training images are read prepared, short side {index['size']}, from {folder}."
    return replace(data, train=split, notes=(*data.notes, note), prepared=index["size"])


def _stamp(images: EncodedImages) -> str | None:
    """Fingerprints the original images, without regard to data.decode."""
    return fingerprint.fingerprint_images(replace(images, how=replace(images.how, fast=False)))


# --- preparation ---


def _read_plan(path: Path, more: tuple[str, ...] = ()) -> dict[str, Any]:
    """Returns what a folder was or is to be prepared by. Raises UserError for a damaged file.

    `more` names the keys beside those of the plan.
    """
    remedy = f"Delete {path.parent} and prepare it again."
    found = read_json(path, most_bytes=DATA_BYTES, remedy=remedy)
    kinds = PLAN | {key: list for key in more}
    for key, kind in kinds.items():
        if type(found.get(key)) is not kind:
            raise UserError(f"{path} is damaged: {key} is {shown(found.get(key))}. {remedy}")
    for shard in found["shards"] if more else ():
        if not isinstance(shard, dict) or any(type(shard.get(k)) is not t for k, t in PART.items()):
            raise UserError(f"{path} is damaged: a shard is {shown(shard)}. {remedy}")
        if "/" in shard["name"] or "\0" in shard["name"]:
            raise UserError(f"{path} names a shard outside its folder: {shard['name']!r}. {remedy}")
    return found


def _check_plan(folder: Path, files: Sequence[Path], plan: Mapping[str, Any]) -> None:
    """Raises UserError if a folder was begun with other images or another size."""
    for path in files:
        if not path.exists():
            continue
        found = _read_plan(path)
        if found["stamp"] != plan["stamp"]:
            raise UserError(f"{folder} holds other images, prepared before. Delete it first.")
        if any(found[key] != plan[key] for key in plan):
            raise UserError(
                f"{folder} holds these images with a short side of {found['size']}. Delete it "
                f"first, or leave it at {found['size']}."
            )


def prepare(split: Split, folder: Path, *, size: int, workers: int, console: Console) -> Path:
    """Writes the prepared form of a split to `folder`, `workers` shards at a time; returns it.

    A second call continues after a kill: shards get their names when they are complete, and their
    bytes depend only on the images and `size`. Raises UserError if images are not files, the folder
    holds other images, cannot be written or is being written by another process, or an image cannot
    be read and the split does not skip such images.
    """
    images = split.images
    if isinstance(images, PreparedImages):
        images = images.taken
    stamp = _stamp(images) if isinstance(images, EncodedImages) else None
    if not isinstance(images, EncodedImages) or stamp is None:
        raise UserError("There is nothing to prepare: these images are not files (data.name).")
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
        shards = [
            {
                "name": name,
                "bytes": (folder / name).stat().st_size,
                "crc32": _crc(folder / name),
            }
            for name in names
        ]
        written = len(_records(tuple(str(folder / name) for name in names)))
        if written != len(images):
            raise UserError(
                f"{folder} holds {written} records, expected {len(images)}. Delete it and "
                "prepare it again."
            )
        with atomic.open_replacement(folder / INDEX) as file:
            json.dump(plan | {"shards": shards}, file, indent=1)
        begun.unlink(missing_ok=True)
    return folder


def check(folder: Path) -> None:
    """Checks the shards of a prepared split. Raises UserError if a checksum is wrong."""
    for shard in _read_plan(folder / INDEX, ("shards",))["shards"]:
        if (found := _crc(folder / shard["name"])) != shard["crc32"]:
            raise UserError(
                f"{folder / shard['name']} is damaged: its checksum (CRC-32) is {found:08x}, not "
                f"{shard['crc32']:08x}. Delete {folder} and prepare it again."
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


def _crc(path: Path) -> int:
    crc = 0
    with open(path, "rb") as file:
        while block := file.read(2**22):
            crc = zlib.crc32(block, crc)
    return crc
