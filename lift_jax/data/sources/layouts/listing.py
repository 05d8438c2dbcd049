"""The entries of one folder of images, on this machine or at an address."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from lift_jax.data.sources.image_files import (
    find_entries,
    is_folder,
    is_foreign,
    is_image,
    natural_key,
)
from lift_jax.errors import UserError
from lift_jax.storage import addresses


@dataclass(frozen=True)
class Listing:
    """The names in a folder in natural order: folders, images, and other files.

    Hidden names and those that systems leave behind (`image_files.is_foreign`) are passed over.
    """

    folders: tuple[str, ...]
    images: tuple[str, ...]
    others: tuple[str, ...]


def read(folder: Path) -> Listing:
    """Lists a folder. Raises UserError if it cannot be opened."""
    if addresses.is_remote(folder):
        entries = _remote(folder)
    else:
        entries = [(entry.name, is_folder(entry)) for entry in find_entries(folder, "")]
    files = [name for name, folder_too in entries if not folder_too]
    return Listing(
        _ordered(name for name, folder_too in entries if folder_too),
        _ordered(filter(is_image, files)),
        _ordered(name for name in files if not is_image(name)),
    )


def holds_images(folder: Path) -> bool:
    """Returns True if there is an image in a folder or anywhere below it."""
    if addresses.is_remote(folder):
        fs, start = addresses.file_system(str(folder))
        return any(
            is_image(name) and not any(map(is_foreign, (*_parts(path, start), name)))
            for path, _, files in fs.walk(start)
            for name in files
        )
    waiting = [os.fspath(folder)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:  # not read to the end: folders are large
                for entry in entries:
                    if is_foreign(entry.name):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    elif is_image(entry.name) and not is_folder(entry):
                        return True
        except OSError:
            continue  # the index reports it where the folder is used
    return False


def with_images(folder: Path, most: int) -> list[str]:
    """Returns the names of the folders in `folder` that hold images: the first `most` in order."""
    holding = (name for name in read(folder).folders if holds_images(folder / name))
    return list(islice(holding, most))


def _ordered(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(names, key=natural_key))


def _remote(folder: Path) -> list[tuple[str, bool]]:
    fs, start = addresses.file_system(str(folder))
    try:
        found = fs.ls(start, detail=True)
    except OSError as error:
        raise UserError(f"Cannot open the directory {folder}: {error}. Set data.root.") from error
    names = [
        (str(each["name"]).rstrip("/").removeprefix(f"{start}/"), each["type"] == "directory")
        for each in found
        if str(each["name"]).rstrip("/") != start  # a bucket's mark of the folder itself
    ]
    return [(name, folder_too) for name, folder_too in names if not is_foreign(name)]


def _parts(path: str, start: str) -> list[str]:
    return path.removeprefix(start).strip("/").split("/")
