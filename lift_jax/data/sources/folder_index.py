"""The index of the image files in a directory per class, cached for large trees.

The index of a tree with at least `LARGE` images is kept in the user's cache. It is used again while
every directory of the tree has its old stamp: both times of change (mtime, ctime) and the inode.
Adding, removing or renaming a file changes the times of its directory, and the tree is then read
again. Unpacking or copying a tree can restore an old mtime, but not the ctime. Overwriting a file
in place changes no name, so the index stays right. An index is not kept if the tree changed less
than two seconds before it was read, because the next change could get the same time, or if the file
system keeps no times.
"""

import contextlib
import hashlib
import json
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from lift_jax.data.sources import image_files
from lift_jax.data.sources.image_files import (
    Others,
    count_others,
    files_below,
    find_entries,
    is_folder,
    is_foreign,
    is_image,
    natural_key,
    not_taken,
    placed,
)
from lift_jax.errors import DiskError, UserError
from lift_jax.storage import addresses, atomic, cache
from lift_jax.storage.reading import DATA_BYTES, read_json

LARGE = 10_000  # images; a smaller tree is read faster than its stamps are checked
SETTLED = 2_000_000_000  # nanoseconds: the coarsest resolution of file systems' times
VERSION = 3
Stamp = list[int]  # mtime and ctime of a directory in nanoseconds, and its inode


@dataclass(frozen=True)
class Index:
    """The images of a tree with a directory a class.

    Attributes:
        images: their paths, relative to the tree, by class in natural order; no class is empty.
        empty: the class directories without images.
        others: the files below class directories that are not taken as images.
        note: where the index came from, "" if there is nothing to say.
    """

    images: dict[str, list[str]]
    empty: list[str] = field(default_factory=list)
    others: Others = field(default_factory=dict)
    note: str = ""


def read(root: Path) -> Index:
    """Indexes the images of each directory in `root`, in natural order.

    Images may lie in directories below the directory of their class. A class directory may be a
    link; links to directories below it are not followed. Hidden files and directories, and those
    that systems leave behind, are passed over.
    Raises UserError for a tree without classes or images, and for names that are not UTF-8.
    """
    found, others, note = _index(root)
    full = {name: images for name, images in found.items() if images}
    empty = [name for name in found if name not in full]
    if not full:
        raise UserError(
            f"The class directory {root / empty[0]} holds no images (expected files that end in "
            f"{', '.join(image_files.SUFFIXES)}), and neither does any other. Add images. "
            f"{not_taken(placed(others, root))}".rstrip()
        )
    return Index(full, empty, others, note)


def _index(root: Path) -> tuple[dict[str, list[str]], Others, str]:
    """Returns the images of each class directory, also of empty ones, other files, and a note."""
    if addresses.is_remote(root):
        return *_of_paths(root, _below(root)), ""
    kept = _cache_file(root)
    if remembered := _remembered(kept, root):
        note = f"Index of {root}: from {kept} (no directory of it has changed since)."
        return *remembered, note
    started = time.time_ns()
    paths, stamps = _read(root)
    found, others = _of_paths(root, paths)
    many = sum(map(len, found.values()))
    times = [stamp[0] for stamp in stamps.values()]
    if many < LARGE or max(times) > started - SETTLED or min(times) <= 0:
        return found, others, ""
    note = f"Index of {root}: {many:,} images"
    if not _remember(kept, root, found, others, stamps):
        return found, others, f"{note}; it could not be kept in {kept.parent}."
    return found, others, f"{note}, kept in {kept}."


# --- the tree ---


def _read(root: Path) -> tuple[dict[str, list[str]], dict[str, Stamp]]:
    """Reads the tree; returns the files of each class directory, and the stamps of directories.

    "" holds the files outside class directories. Stamps are by relative path.
    """
    stamps = {"": _stamp(root)}

    def enter(below: str) -> None:
        stamps[below] = _stamp(root / below)  # before reading, so that a later change shows

    entries = find_entries(root, "")
    paths: dict[str, list[str]] = {}
    for name in (e.name for e in entries if is_folder(e)):
        _check_name(root, name)
        paths[name] = files_below(root, name, enter)
        for path in filter(is_image, paths[name]):
            _check_name(root, path)
    return paths | {"": [e.name for e in entries if not is_folder(e)]}, stamps


def _below(root: Path) -> dict[str, list[str]]:
    """Returns the files by class of a tree at an address; "" holds files outside classes."""
    fs, start = addresses.file_system(str(root))
    try:
        whole = fs.find(start)
    except OSError as error:
        raise UserError(f"Cannot open the directory {root}: {error}. Set data.root.") from error
    paths: dict[str, list[str]] = {"": []}
    for path in (str(each).removeprefix(f"{start}/") for each in whole):
        parts = path.split("/")
        if not any(map(is_foreign, parts)):
            paths.setdefault(parts[0] if len(parts) > 1 else "", []).append(path)
    return paths


def _of_paths(root: Path, paths: dict[str, list[str]]) -> tuple[dict[str, list[str]], Others]:
    """Returns the images of each class, both in natural order, and the other files in classes.

    Raises UserError if there are no class directories.
    """
    loose = sum(map(is_image, paths.pop("", [])))
    found = {
        name: sorted(filter(is_image, paths[name]), key=natural_key)
        for name in sorted(paths, key=natural_key)
    }
    if not found:
        raise UserError(
            f"{root} holds no class directories (found {loose} images directly in it). Expected "
            f"one directory for each class, named after it: {root / 'tabby cat' / 'image1.jpg'}. "
            "If a file or the images' names tell the classes, give a list or a table "
            "(data.name=list, data.name=table)."
        )
    return found, count_others(p for each in paths.values() for p in each if not is_image(p))


def _stamp(folder: Path) -> Stamp:
    try:
        found = os.stat(folder)
    except OSError:
        return [0, 0, 0]  # reading the directory reports the error
    return [found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _check_name(root: Path, path: str) -> None:
    try:
        path.encode()
    except UnicodeEncodeError:
        name = os.fsencode(path)
        said = f"{root} holds a name that is not UTF-8: {name!r}. "
        remedy = "Rename it, as with convmv -f latin1 -t utf8 -r --notest."
        with contextlib.suppress(UnicodeDecodeError):
            said = f"Python reads file names as {sys.getfilesystemencoding()}: {name.decode()!r}. "
            remedy = "Set PYTHONUTF8=1, or a UTF-8 locale such as LC_ALL=C.UTF-8."
        raise UserError(said + remedy) from None


# --- the cached index ---


def _cache_file(root: Path) -> Path:
    name = hashlib.sha256(os.fsencode(os.path.abspath(root))).hexdigest()[:20]
    return cache.cache_folder() / "index" / f"{name}.json"


def _remembered(file: Path, root: Path) -> tuple[dict[str, list[str]], Others] | None:
    """Returns the cached classes and other files, or None if there are none or a directory has
    changed."""
    try:
        kept = read_json(file, most_bytes=DATA_BYTES)
        if any(kept[key] != value for key, value in _made_for(root).items()):
            return None
        if any(_stamp(root / below) != stamp for below, stamp in kept["stamps"].items()):
            return None
        found = kept["classes"]
        lists = [images for images in found.values() if isinstance(images, list)]
        whole = len(lists) == len(found) and all(isinstance(p, str) for each in lists for p in each)
        others = {str(end): (int(n), str(first)) for end, (n, first) in kept["others"].items()}
        return (found, others) if whole and found else None
    except (UserError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # no index, or a damaged one


def _made_for(root: Path) -> dict[str, object]:
    return dict(version=VERSION, root=os.path.abspath(root), suffixes=list(image_files.SUFFIXES))


def _remember(
    file: Path,
    root: Path,
    found: dict[str, list[str]],
    others: Others,
    stamps: dict[str, Stamp],
) -> bool:
    kept = _made_for(root) | dict(stamps=stamps, classes=found, others=others)
    try:
        with atomic.open_replacement(file) as stream:
            json.dump(kept, stream)
        return True
    except DiskError:
        return False
