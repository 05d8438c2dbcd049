"""The images of a prepared training split, read from its shards, and whether they may be used.

Only the training split is prepared (`prepare`), so that tests see the original images.
"""

import functools
import hashlib
import os
import struct
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grain
import numpy as np
from jaxtyping import Int

from lift_jax.data import fingerprint
from lift_jax.data.images.decode import Picture, open_image
from lift_jax.data.types import Dataset, EncodedImages
from lift_jax.errors import UserError, shown
from lift_jax.storage.cache import cache_folder
from lift_jax.storage.names import expand_user
from lift_jax.storage.reading import DATA_BYTES, read_json

INDEX = "prepared.json"
PLAN = {"stamp": str, "size": int, "quality": int, "count": int}  # keys of the index
PART = {"name": str, "bytes": int, "crc32": int}  # and those of each of its shards
HEADER = struct.Struct("<II")  # height and width of the original image; 0 and 0 if unreadable


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
            record = records(self.files)[int(self.rows[i])]
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
def records(files: tuple[str, ...]) -> Any:
    """Returns the reader of the shards, which all threads of a process share."""
    return grain.sources.ArrayRecordDataSource(list(files))


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
    index = read_plan(folder / INDEX, ("shards",))
    files = [folder / shard["name"] for shard in index["shards"]]
    sizes = [shard["bytes"] for shard in index["shards"]]
    why = ""
    if index["stamp"] != stamp_of(images):
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


def exactly(images: EncodedImages) -> EncodedImages:
    """Returns the images decoded exactly, whatever data.decode says: as they are prepared."""
    return replace(images, how=replace(images.how, fast=False))


def stamp_of(images: EncodedImages) -> str | None:
    """Fingerprints the original images; None if one of them is not on this machine."""
    return fingerprint.fingerprint_images(exactly(images))


def read_plan(path: Path, more: tuple[str, ...] = ()) -> dict[str, Any]:
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


def check(folder: Path) -> None:
    """Checks the shards of a prepared split. Raises UserError if a checksum is wrong."""
    for shard in read_plan(folder / INDEX, ("shards",))["shards"]:
        if (found := crc_of(folder / shard["name"])) != shard["crc32"]:
            raise UserError(
                f"{folder / shard['name']} is damaged: its checksum (CRC-32) is {found:08x}, not "
                f"{shard['crc32']:08x}. Delete {folder} and prepare it again."
            )


def crc_of(path: Path) -> int:
    """Returns the CRC-32 of a file."""
    crc = 0
    with open(path, "rb") as file:
        while block := file.read(2**22):
            crc = zlib.crc32(block, crc)
    return crc
