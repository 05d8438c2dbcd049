"""The index of the image files in a directory per class, cached for large trees.

The index of a tree with at least `LARGE` images is kept in the user's cache. It is used again while
every directory of the tree has its old stamp: both times of change (mtime, ctime) and the inode.
Adding, removing or renaming a file changes the times of its directory, and the tree is then read
again. Unpacking or copying a tree can restore an old mtime, but not the ctime. Overwriting a file
in place changes no name, so the index stays right. An index is not kept if the tree changed less
than two seconds before it was read, because the next change could get the same time, or if the file
system keeps no times.
"""

import hashlib
import json
import os
import re
import time
from pathlib import Path

from lift_jax.errors import DiskError, UserError
from lift_jax.storage import addresses, atomic, cache
from lift_jax.storage.reading import DATA_BYTES, read_json

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
LARGE = 10_000  # images; a smaller tree is read faster than its stamps are checked
SETTLED = 2_000_000_000  # nanoseconds: the coarsest resolution of file systems' times
VERSION = 2
Stamp = list[int]  # mtime and ctime of a directory in nanoseconds, and its inode


def natural_key(name: str) -> tuple:
    """Returns a sort key that orders numbers by value: class_2 comes before class_10."""
    parts = re.split(r"([0-9]+)", name.casefold())
    return tuple(int(part) if i % 2 else part for i, part in enumerate(parts)), name


def classes(root: Path) -> tuple[dict[str, list[str]], str]:
    """Returns the image paths, relative to `root`, of each directory in it, in natural order.

    Images may lie in directories below the directory of their class. A class directory may be a
    link; links to directories below it are not followed. Hidden files and directories, and class
    directories without images, are skipped. The second value is a note on skipped class directories
    and on where the index came from, "" if there is nothing to say.
    Raises UserError for a tree without classes or images, and for names that are not UTF-8.
    """
    found, note = _index(root)
    full = {name: images for name, images in found.items() if images}
    empty = [str(root / name) for name in found if name not in full]
    if not full:
        raise UserError(
            f"The class directory {empty[0]} holds no images (expected files that end in "
            f"{', '.join(SUFFIXES)}), and neither does any other. Add images."
        )
    if empty:
        shown = ", ".join(empty[:5]) + (", ..." if len(empty) > 5 else "")
        kinds = "class folder" if len(empty) == 1 else "class folders"
        note = f"Skipped {len(empty)} {kinds} without images: {shown}. {note}".strip()
    return full, note


def _index(root: Path) -> tuple[dict[str, list[str]], str]:
    """Returns the images of each class directory, also of empty ones, and a note on the index."""
    if addresses.is_remote(root):
        return _of_paths(root, _below(root)), ""
    kept = _cache_file(root)
    if found := _remembered(kept, root):
        return found, f"Index of {root}: from {kept} (no directory of it has changed since)."
    started = time.time_ns()
    found, stamps = _read(root)
    many = sum(map(len, found.values()))
    times = [stamp[0] for stamp in stamps.values()]
    if many < LARGE or max(times) > started - SETTLED or min(times) <= 0:
        return found, ""
    if not _remember(kept, root, found, stamps):
        return found, f"Index of {root}: {many:,} images; it could not be kept in {kept.parent}."
    return found, f"Index of {root}: {many:,} images, kept in {kept}."


# --- the tree ---


def _read(root: Path) -> tuple[dict[str, list[str]], dict[str, Stamp]]:
    """Reads the tree; returns its classes, and the stamp of every directory by relative path."""
    stamps = {"": _stamp(root)}
    entries = _entries(root, "")
    paths: dict[str, list[str]] = {}
    for name in (e.name for e in entries if _is_folder(e)):
        _check_name(root, name)
        paths[name] = _images(root, name, stamps)
    paths |= {"": [e.name for e in entries if e.name.lower().endswith(SUFFIXES)]}
    return _of_paths(root, paths), stamps


def _below(root: Path) -> dict[str, list[str]]:
    """Returns the images by class of a tree at an address; "" holds images outside classes."""
    fs, start = addresses.file_system(str(root))
    try:
        whole = fs.find(start)
    except OSError as error:
        raise UserError(f"Cannot open the directory {root}: {error}. Set data.root.") from error
    paths: dict[str, list[str]] = {"": []}
    for path in (str(each).removeprefix(f"{start}/") for each in whole):
        parts = path.split("/")
        if not any(part.startswith((".", "__MACOSX")) for part in parts):
            name = parts[0] if len(parts) > 1 else ""
            paths.setdefault(name, []).extend([path] if path.lower().endswith(SUFFIXES) else [])
    return paths


def _of_paths(root: Path, paths: dict[str, list[str]]) -> dict[str, list[str]]:
    """Sorts class directories and their images naturally. Raises UserError if there are none."""
    loose = len(paths.pop("", []))
    found = {name: sorted(paths[name], key=natural_key) for name in sorted(paths, key=natural_key)}
    if not found:
        raise UserError(
            f"{root} holds no class directories (found {loose} images directly in it). Expected "
            f"a directory a class, named as the class, as in {root / 'tabby cat' / 'image1.jpg'}."
        )
    return found


def _images(root: Path, first: str, stamps: dict[str, Stamp]) -> list[str]:
    """Returns the images of a class, and adds the stamps of its directories."""
    paths, waiting = [], [first]
    while waiting:
        below = waiting.pop()
        stamps[below] = _stamp(root / below)  # before reading, so that a later change shows
        for entry in _entries(root, below):
            path = os.path.join(below, entry.name)
            if entry.is_dir(follow_symlinks=False):
                waiting.append(path)
            elif entry.name.lower().endswith(SUFFIXES) and not _is_folder(entry):
                _check_name(root, path)
                paths.append(path)
    return paths


def _entries(root: Path, below: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(root / below) as entries:
            return [e for e in entries if not e.name.startswith((".", "__MACOSX"))]
    except OSError as error:
        raise UserError(
            f"Cannot open the directory {root / below}: {error.strerror}. Set data.root to the "
            "directory of the images."
        ) from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link to itself: its name decides


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
        raise UserError(
            f"{root} holds a name that is not UTF-8: {os.fsencode(path)!r}. Rename it, as with "
            "convmv -f latin1 -t utf8 -r --notest."
        ) from None


# --- the cached index ---


def _cache_file(root: Path) -> Path:
    name = hashlib.sha256(os.fsencode(os.path.abspath(root))).hexdigest()[:20]
    return cache.cache_folder() / "index" / f"{name}.json"


def _remembered(file: Path, root: Path) -> dict[str, list[str]] | None:
    """Returns the cached classes, or None if there are none or a directory has changed."""
    try:
        kept = read_json(file, most_bytes=DATA_BYTES)
        if (kept["version"], kept["root"]) != (VERSION, os.path.abspath(root)):
            return None
        if any(_stamp(root / below) != stamp for below, stamp in kept["stamps"].items()):
            return None
        found = kept["classes"]
        lists = [images for images in found.values() if isinstance(images, list)]
        whole = len(lists) == len(found) and all(isinstance(p, str) for each in lists for p in each)
        return found if whole else None
    except (UserError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # no index, or a damaged one


def _remember(
    file: Path, root: Path, found: dict[str, list[str]], stamps: dict[str, Stamp]
) -> bool:
    kept = dict(version=VERSION, root=os.path.abspath(root), stamps=stamps, classes=found)
    try:
        with atomic.open_replacement(file) as stream:
            json.dump(kept, stream)
        return True
    except DiskError:
        return False
