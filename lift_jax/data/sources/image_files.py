"""Image files in folders, by their names: which are images, what lies beside, and their order."""

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from lift_jax.data.images.formats import SUFFIXES
from lift_jax.errors import UserError

ENDINGS = 6  # that a message names
# Names that systems leave behind, in small letters, beside hidden ones and those of __MACOSX.
FOREIGN = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "@eadir", "$recycle.bin",
           "system volume information", "lost+found")  # fmt: skip
Others = dict[str, tuple[int, str]]  # by ending: the number of such files, and the first of them


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


def images_below(folder: Path) -> tuple[list[Path], Others]:
    """Returns the images anywhere below a folder, sorted, and the files that are not taken."""
    files = files_below(folder)
    others = placed(count_others(path for path in files if not is_image(path)), folder)
    return sorted(folder / path for path in files if is_image(path)), others


def files_below(
    root: Path, first: str = "", enter: Callable[[str], None] = lambda below: None
) -> list[str]:
    """Returns the files below a directory of `root`, relative to that.

    Hidden ones, and those that systems leave behind, are passed over; links to directories are not
    followed. `enter` is called with each directory before it is read. Raises UserError for one that
    cannot be opened.
    """
    paths, waiting = [], [first]
    while waiting:
        below = waiting.pop()
        enter(below)
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
