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
import re
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from lift_jax.data.images.formats import SUFFIXES
from lift_jax.errors import DiskError, UserError
from lift_jax.storage import addresses, atomic, cache
from lift_jax.storage.reading import DATA_BYTES, read_json

LARGE = 10_000  # images; a smaller tree is read faster than its stamps are checked
SETTLED = 2_000_000_000  # nanoseconds: the coarsest resolution of file systems' times
ENDINGS = 6  # that a message names
VERSION = 3
# Names that systems leave behind, in small letters, beside hidden ones and those of __MACOSX.
FOREIGN = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "@eadir", "$recycle.bin",
           "system volume information", "lost+found")  # fmt: skip
Stamp = list[int]  # mtime and ctime of a directory in nanoseconds, and its inode
Others = dict[str, tuple[int, str]]  # by ending: the number of such files, and the first of them


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


def is_image(name: str) -> bool:
    """Returns True if a file's name has an ending that is read, in any case."""
    return name.lower().endswith(SUFFIXES)


def is_foreign(name: str) -> bool:
    """Returns True for a hidden file or folder, and for one that a system left behind."""
    return name.startswith((".", "__MACOSX")) or name.lower() in FOREIGN


def count_others(paths: Iterable[str]) -> Others:
    """Returns the number of files by ending, the most frequent first, with the first of each."""
    by_ending: dict[str, list[str]] = {}
    for path in sorted(paths, key=natural_key):
        by_ending.setdefault(os.path.splitext(path)[1].lower(), []).append(path)
    ranked = sorted(by_ending.items(), key=lambda item: -len(item[1]))
    return {ending: (len(own), own[0]) for ending, own in ranked}


def placed(others: Others, folder: str | Path) -> Others:
    """Returns the counts with the first file of each ending given below `folder`."""
    return {end: (count, os.path.join(folder, first)) for end, (count, first) in others.items()}


def joined(several: Iterable[Others]) -> Others:
    """Returns the counts of several folders together, the most frequent ending first."""
    together: Others = {}
    for end, (count, first) in (item for others in several for item in others.items()):
        before, earlier = together.get(end, (0, first))
        together[end] = (before + count, earlier)
    return dict(sorted(together.items(), key=lambda item: -item[1][0]))


def not_taken(others: Others) -> str:
    """Returns a sentence on files that are not taken as images, "" if there are none."""
    if not others:
        return ""
    counted = [f"{count:,} {end or 'without an ending'}" for end, (count, _) in others.items()]
    if len(counted) > ENDINGS:
        rest = sum(count for count, _ in list(others.values())[ENDINGS:])
        counted[ENDINGS:] = [f"{rest:,} with other endings"]
    first = next(iter(others.values()))[1]
    return f"Not taken as images: {', '.join(counted)}; first: {first}."


def natural_key(name: str) -> tuple:
    """Returns a sort key that orders numbers by value: class_2 comes before class_10."""
    parts = re.split(r"([0-9]+)", name.casefold())
    return tuple(int(part) if i % 2 else part for i, part in enumerate(parts)), name


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
            f"{', '.join(SUFFIXES)}), and neither does any other. Add images. "
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
    entries = find_entries(root, "")
    paths: dict[str, list[str]] = {}
    for name in (e.name for e in entries if is_folder(e)):
        _check_name(root, name)
        paths[name] = _files_below(root, name, stamps)
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
            f"a directory a class, named as the class, as in {root / 'tabby cat' / 'image1.jpg'}. "
            "If a file or the images' names tell the classes, give a list or a table "
            "(data.name=list, data.name=table)."
        )
    return found, count_others(p for each in paths.values() for p in each if not is_image(p))


def images_below(folder: Path) -> tuple[list[Path], Others]:
    """Returns the images anywhere below a folder, sorted, and the files that are not taken."""
    files = _files_below(folder, "", {})
    others = placed(count_others(path for path in files if not is_image(path)), folder)
    return sorted(folder / path for path in files if is_image(path)), others


def _files_below(root: Path, first: str, stamps: dict[str, Stamp]) -> list[str]:
    """Returns the files below a directory of `root`, and adds the stamps of its directories."""
    paths, waiting = [], [first]
    while waiting:
        below = waiting.pop()
        stamps[below] = _stamp(root / below)  # before reading, so that a later change shows
        for entry in find_entries(root, below):
            path = os.path.join(below, entry.name)
            if entry.is_dir(follow_symlinks=False):
                waiting.append(path)
            elif not is_folder(entry):
                paths.append(path)
    return paths


def find_entries(root: Path, below: str) -> list[os.DirEntry[str]]:
    """Returns the entries of a directory that are not foreign.

    Raises UserError if it cannot be opened.
    """
    try:
        with os.scandir(root / below) as entries:
            return [entry for entry in entries if not is_foreign(entry.name)]
    except OSError as error:
        remedy = (
            "Make it readable, or move it away."
            if isinstance(error, PermissionError)
            else "Set data.root to the directory of the images."
        )
        raise UserError(
            f"Cannot open the directory {root / below}: {error.strerror}. {remedy}"
        ) from error


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Returns True for a directory and for a link to one."""
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
    return dict(version=VERSION, root=os.path.abspath(root), suffixes=list(SUFFIXES))


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
