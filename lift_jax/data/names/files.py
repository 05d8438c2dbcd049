"""Files of class names, one a line: in the order of the labels, or with a key before each name.

A key is a label ("0: tench"), the name of a folder ("n01440764 tench") or an id that is none of
both. Keys are no part of the name. Lines with keys may stand in any order.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lift_jax.data.names import same, words
from lift_jax.data.sources.paths import read_lines
from lift_jax.errors import UserError

BETWEEN = re.compile(r"[\s,:;=|]+")  # what stands between a key and a name
BEFORE = re.compile(r"[{\"'\s]*(\d{1,9})[\"']?(\s*[:;=,]\s*|[.)_-]\s*|\s+)(\S.*)")
AFTER = re.compile(r"(\S.*?)(\s*[:;=,]\s*|\s+)(\d{1,9})")
QUOTES = "\"' ,{}"  # around a name in a line of CSV, JSON or Python
HALF = 0.5  # more than this share of the folders are keys in lines that have keys
SHOWN = 5  # keys that a message lists


@dataclass(frozen=True)
class NameFile:
    """The names that a file gives.

    Attributes:
        names: in the order of the labels.
        lines: the whole line of each, without a number before or after the name.
        notes: sentences on how the file was read.
    """

    names: list[str]
    lines: list[str]
    notes: list[str]

    def by_key(self, classes: Iterable[str]) -> tuple[list[str], list[str]]:
        """Returns the class of each line, which is its key or its name, and the name.

        A line of none of the classes is of the class that it names.
        """
        known = set(classes)
        if known <= {*self.names}:
            return self.names, self.names
        rows = zip(match(self.lines, sorted(known)), self.names, strict=True)
        both = [(key, name) if key else (own, own) for (key, name), own in rows]
        return [key for key, _ in both], [name for _, name in both]


def read(path: Path, clean: bool) -> NameFile:
    """Returns the names of a file by label: those of the numbers in its lines, else the order.

    With `clean` False (data.clean_names) lines are names as they are. Raises UserError for blank
    lines between names, and for numbers that are missing or twice.
    """
    numbers, given = zip(*read_lines(path), strict=True)
    if numbers[-1] != len(given):
        raise UserError(
            f"{path} has a blank line among its {len(given)} names, so labels and names would not "
            "match. Expected the name of label 0 in line 1, and so on."
        )
    lines, names, notes = list(given), list(given), []
    if not clean:
        return NameFile(names, lines, notes)
    if (found := _numbered(lines, path)) is not None:
        names, first = found
        lines = names
        notes.append(
            f"{path}: lines are number and name, counted from {first}: label 0 is {names[0]!r}, "
            f"label {len(names) - 1} {names[-1]!r}."
        )
    for kind, pattern in (("WordNet id", words.wordnet), ("the name twice", words.twice)):
        if (without := words.taken(names, pattern)) is not None:
            notes.append(f"{path}: lines have {kind}: {names[0]!r} is read as {without[0]!r}.")
            names = without
    return NameFile(names, lines, notes)


def read_for_folders(path: Path, folders: Sequence[str], clean: bool) -> NameFile:
    """Returns the names that a file gives to folders, which are in natural order.

    Raises UserError as `read`, for folders that lines with keys leave out or name twice, and for
    lines without keys that are not as many as the folders.
    """
    if clean and (keyed := _by_folder(path, [line for _, line in read_lines(path)], folders)):
        return keyed
    found = read(path, clean)
    if clean and (keyed := _by_folder(path, found.names, folders)):
        return keyed
    if len(found.names) != len(folders):
        raise UserError(
            f"{path} has {len(found.names)} names, but there are {len(folders)} class directories, "
            f"from {folders[0]!r} to {folders[-1]!r}. Expected one name a line, in the natural "
            "order of the directories, or lines `DIRECTORY name` in any order."
        )
    return NameFile(found.names, found.lines, found.notes + _order(path, found.names, folders))


def match(lines: Sequence[str], keys: Sequence[str]) -> list[tuple[str, str]]:
    """Returns the key and the name of each line; the key is "" for a line that begins with none.

    The longest key counts. A key of words, such as "crane" in "crane bird", belongs to the name;
    one that holds a digit, or is set off by more than a space, does not.
    """
    known: dict[str, str] = {}
    for each in keys:
        known[same.key(each)] = each
    for each in keys:
        if found := re.match(rf"{words.WORDNET}(?=[-_ ])", each):
            known.setdefault(found[0], each)
    return [_split(line, known) for line in lines]


def _split(line: str, known: Mapping[str, str]) -> tuple[str, str]:
    if (whole := known.get(same.key(line))) is not None:
        return whole, line
    for gap in reversed(list(BETWEEN.finditer(line[: words.LONGEST]))):
        key, name = line[: gap.start()].strip(QUOTES), line[gap.end() :].strip(QUOTES)
        if name and (found := known.get(same.key(key))) is not None:
            marked = bool(gap[0].strip(" ")) or any(map(str.isdigit, key))
            again = same.key(name).startswith(same.key(key))
            if name.isdigit():
                return found, key  # a line `cat 0`
            return found, name if marked or again else line
    return "", line


def _by_folder(path: Path, lines: Sequence[str], folders: Sequence[str]) -> NameFile | None:
    """Returns names by the folders in the lines, or None if most lines have none.

    Raises UserError unless each folder is there once.
    """
    named = match(lines, folders)
    keys = [folder for folder, _ in named]
    if len({*keys} - {""}) <= HALF * len(folders):
        return None
    odd = [line for line, key in zip(lines, keys, strict=True) if not key]
    row = {key: i for i, key in enumerate(keys)}
    missing = [folder for folder in folders if folder not in row]
    twice = [key for key, count in Counter(keys).items() if key and count > 1]
    if missing or twice:
        raise UserError(
            f"{path} has the names of directories as keys, but not each of the {len(folders)} "
            f"once{_wrong(missing, twice, odd)}. Expected lines `DIRECTORY name`."
        )
    rows = [row[folder] for folder in folders]
    names = [named[row][1] for row in rows]
    if all(re.match(words.WORDNET, folder) for folder in folders):
        names = [name for name in words.first_synonyms(names) if name is not None]
    unused = f" Lines of no directory, not used: {len(odd):,}." if odd else ""
    notes = [f"{path}: lines are matched by directory: {_pairs(folders, names)}.{unused}"]
    return NameFile(names, [lines[row] for row in rows], notes)


def _order(path: Path, names: Sequence[str], folders: Sequence[str]) -> list[str]:
    """Returns a note if the lines could be meant for the folders in the order of characters."""
    by_characters = sorted(folders)
    differ = [i for i, folder in enumerate(folders) if folder != by_characters[i]]
    if not differ:
        return []
    i = differ[0]  # at least one more differs
    rows = sorted({0, i, i + 1, len(folders) - 1})[:3]
    return [
        f"{path}: lines name the directories in natural order, {folders[i]!r} before "
        f"{by_characters[i]!r}: {_pairs(folders, names, rows)}. If another order is meant, begin "
        f"each line with its directory, as in `{folders[i]} {names[i]}`."
    ]


def _pairs(folders: Sequence[str], names: Sequence[str], rows: Sequence[int] = ()) -> str:
    rows = rows or sorted({0, len(names) // 2, len(names) - 1})
    return ", ".join(f"{folders[i]!r} = {names[i]!r}" for i in rows)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:SHOWN])) + (", ..." if len(names) > SHOWN else "")


def _numbered(lines: Sequence[str], path: Path) -> tuple[list[str], int] | None:
    """Returns the names by the numbers in the lines, and the first number; None without any."""
    if any(len(line) > words.LONGEST for line in lines):
        return None
    for pattern, number, name in ((BEFORE, 1, 3), (AFTER, 3, 1)):
        matches = [pattern.fullmatch(line) for line in lines]
        headed = matches[0] is None and len(lines) > 2  # a line such as label,name
        found = [m for m in (matches[1:] if headed else matches) if m]
        if len(found) < len(lines) - headed or headed and not found[0][2].strip(" "):
            continue
        numbers = [int(m[number]) for m in found]
        names = [m[name].strip(QUOTES) for m in found]
        first, count = min(numbers), len(numbers)
        if first > 1 or not words.stay_distinct(lines[headed:], names):
            continue
        wanted = range(first, first + count)
        if sorted(numbers) != list(wanted):
            marked = all(m[2].strip(" ") in (":", ";", "=", ",", "\t") for m in found)
            if pattern is BEFORE and (marked or max(numbers) <= first + count):
                raise _wrong_numbers(path, numbers)
            continue
        by_number = dict(zip(numbers, names, strict=True))
        return [by_number[i] for i in wanted], first
    return None


def _wrong_numbers(path: Path, numbers: Sequence[int]) -> UserError:
    first, count, present = min(numbers), len(numbers), Counter(numbers)
    twice = [str(n) for n in sorted(present) if present[n] > 1]
    missing = [str(n) for n in range(first, first + count) if n not in present]
    return UserError(
        f"{path} numbers its names, but not from {first} to {first + count - 1}"
        f"{_wrong(missing, twice, [])}. Expected one line for each label."
    )


def _wrong(missing: Sequence[str], twice: Sequence[str], odd: Sequence[str]) -> str:
    """Returns what is wrong with keys, for a message: those missing or twice, and other lines."""
    parts = (("missing", missing), ("twice", twice), ("lines of no directory", odd))
    return "".join(f"; {what}: {_listed(each)}" for what, each in parts if each)
