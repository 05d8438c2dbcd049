"""Which image files lie below a directory a class, remembered for large trees.

The index of a tree of `LARGE` images or more is kept in the user's cache. It is used again only
while every directory of the tree has the stamp that it had then: its times of change and its inode.
A file or directory that is added, removed or renamed changes the time of the directory it lies in,
and the tree is read again. A tree that is unpacked or copied over another may bring its old time
along (mtime), but the file system's own (ctime) cannot be set. A file that is overwritten in place
keeps its name, so the index stays right. A tree that changed less than two seconds before it was
read is not kept, for the next change might bear the same time; nor is one on a file system that
keeps no times.
"""

import hashlib
import json
import os
import re
import tempfile
import time
from pathlib import Path

from lift_jax.errors import UserError
from lift_jax.storage import addresses, cache
from lift_jax.storage.reading import DATA_BYTES, read_json

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
LARGE = 10_000  # images; fewer are found faster than asked about
SETTLED = 2_000_000_000  # nanoseconds: the coarsest times of change that file systems keep
VERSION = 2
Stamp = list[int]  # of a directory: its mtime and ctime in nanoseconds, its inode


def natural_key(name: str) -> tuple:
    """Sorts as people count: class_2 before class_10."""
    parts = re.split(r"([0-9]+)", name.casefold())
    return tuple(int(part) if i % 2 else part for i, part in enumerate(parts)), name


def classes(root: Path) -> tuple[dict[str, list[str]], str]:
    """Returns the image paths, relative to `root`, of each directory in it, in natural order.

    Images may lie in directories below a class's own; links to directories are followed for classes
    and not below. Hidden files and directories are skipped, and so are class directories without
    images. The second value is a note: which class directories were skipped, and where the index
    came from; "" if there is nothing to say.
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
    """Returns the images of each class directory, empty ones among them, and where the index came
    from."""
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
    """Returns the classes, and the stamp of every directory, by its relative path."""
    stamps = {"": _stamp(root)}
    entries = _entries(root, "")
    paths: dict[str, list[str]] = {}
    for name in (e.name for e in entries if _is_folder(e)):
        _check_name(root, name)
        paths[name] = _images(root, name, stamps)
    paths |= {"": [e.name for e in entries if e.name.lower().endswith(SUFFIXES)]}
    return _of_paths(root, paths), stamps


def _below(root: Path) -> dict[str, list[str]]:
    """Returns the images by class of a tree at an address, "" for those in no class."""
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
    """Returns the class directories and their images in natural order. Raises UserError if there
    are no class directories."""
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
        stamps[below] = _stamp(root / below)  # before it is read: a later change shows
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
        return False  # a link to itself: what it is called decides


def _stamp(folder: Path) -> Stamp:
    try:
        found = os.stat(folder)
    except OSError:
        return [0, 0, 0]  # what is wrong is said when it is read
    return [found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _check_name(root: Path, path: str) -> None:
    try:
        path.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{root} holds a name that is not UTF-8: {os.fsencode(path)!r}. Rename it, as with "
            "convmv -f latin1 -t utf8 -r --notest."
        ) from None


# --- what is kept of it ---


def _cache_file(root: Path) -> Path:
    name = hashlib.sha256(os.fsencode(os.path.abspath(root))).hexdigest()[:20]
    return cache.cache_folder() / "index" / f"{name}.json"


def _remembered(file: Path, root: Path) -> dict[str, list[str]] | None:
    """Returns the classes that are kept, None where there are none or a directory has changed."""
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
        return None  # none yet, or not one of ours: the tree is read


def _remember(
    file: Path, root: Path, found: dict[str, list[str]], stamps: dict[str, Stamp]
) -> bool:
    kept = dict(version=VERSION, root=os.path.abspath(root), stamps=stamps, classes=found)
    temporary = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # a name of its own, for several processes may index the same tree
        handle, temporary = tempfile.mkstemp(dir=file.parent)
        with open(handle, "w", encoding="utf-8") as stream:
            json.dump(kept, stream)
        os.replace(temporary, file)
        return True
    except OSError:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        return False
