"""The words of class names: what a prompt says where a name holds numbers, keys or joined words.

A pattern counts only if nearly all names have it, so that a single name such as "7 up" or
"Boeing 707" is never taken for one.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lift_jax.data.names import same

NEARLY_ALL = 0.95  # share of the names that must have a pattern
STILL_DISTINCT = 0.9  # share of the names that must stay different without it
LONGEST = 500  # characters of a name that patterns are looked for in, since some take long
JOINED = 0.2  # share of the names that must be of two words or more, to read CamelCase as words
WORDNET = r"n[0-9]{8}"
COUNTED = r"(?:(?:class|cls|label|category|id)[\s_-]*)?"  # before the number of a class
CODES = re.compile(rf"{COUNTED}#?[-+]?\d+(?:[.,]\d+)*|{WORDNET}")
NUMBERED = re.compile(rf"{COUNTED}\(?#?(\d{{1,9}})([\s._\-:,;)]+)(\S.*)", re.IGNORECASE)
LEVELS = re.compile(r"\d+(?:_[A-Z][^_]*){5}_([A-Z][^_]*)_([^_A-Z][^_]*(?:_[^_]+)*)")
CAMEL = re.compile(r"(?:[A-Z][a-z]{2,})+")

Found = list[str | None]  # the name without the pattern, None where it has none


@dataclass(frozen=True)
class Wording:
    """The class names as prompts say them.

    Attributes:
        names: in the order of the labels.
        changes: the patterns that were taken out.
        codes: the names that are numbers or WordNet ids alone, or one word that is counted.
    """

    names: tuple[str, ...]
    changes: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()

    @property
    def are_codes(self) -> bool:
        """Returns True if nearly all names are codes, which are words of no prompt."""
        return len(self.codes) >= NEARLY_ALL * len(self.names)


def read(names: Sequence[str]) -> Wording:
    """Returns the words of class names."""
    wording, changes = list(names), []
    for title, find in PATTERNS:
        if (found := taken(wording, find)) is not None:
            wording = found
            changes.append(title)
    codes = tuple(name for name in wording if CODES.fullmatch(same.key(name)))
    if _are_counted(wording):
        codes = tuple(wording)
    return Wording(tuple(wording), tuple(changes), codes)


def _are_counted(names: Sequence[str]) -> bool:
    """Returns True if the names are one word, counted from 0 or 1 without a gap (c0, c1, c2)."""
    matches = [re.fullmatch(r"(\D*?)0*(\d{1,9})", same.key(name)) for name in names]
    found = [match for match in matches if match]
    if len(found) < len(names) or len({match[1] for match in found}) > 1:
        return False
    numbers = sorted(int(match[2]) for match in found)
    return numbers in (list(range(len(names))), list(range(1, len(names) + 1)))


def taken(names: Sequence[str], find: Callable[[Sequence[str]], Found]) -> list[str] | None:
    """Returns the names without a pattern, or None unless nearly all have it.

    None also if a name would be empty, or too many names would be alike.
    """
    if any(len(name) > LONGEST for name in names):
        return None
    found = find(names)
    having = sum(each is not None for each in found)
    if having == 0 or having < NEARLY_ALL * len(names):
        return None
    without = [name if each is None else each for name, each in zip(names, found, strict=True)]
    return without if stay_distinct(names, without) else None


def stay_distinct(names: Sequence[str], without: Sequence[str]) -> bool:
    """Returns True if names are still told apart after a change, and none is empty."""
    if not all(map(same.key, without)):
        return False
    before, after = (len(set(map(same.key, each))) for each in (names, without))
    return after >= STILL_DISTINCT * before


def are_foreign(names: Sequence[str]) -> bool:
    """Returns True if most names have letters beyond those of English."""
    odd = sum(any(c.isalpha() and not c.isascii() for c in name) for name in names)
    return 2 * odd > len(names)


# --- the patterns: each returns the names without it, None for a name that does not have it ---


def _levels(names: Sequence[str]) -> Found:
    """Returns genus and species of iNaturalist's folders, NUMBER_Kingdom_..._Genus_species."""
    matches = [LEVELS.fullmatch(name.strip()) for name in names]
    return [found and f"{found[1]} {found[2]}" for found in matches]


def wordnet(names: Sequence[str]) -> Found:
    """Returns the first synonym beside a WordNet id."""
    first = rf"{WORDNET}[\s_\-.,:;=]+(?P<name>\S.*)"
    last = rf"(?P<name>.*?\S)[\s_\-.,:;=(]+{WORDNET}\)?"
    matches = [re.fullmatch(first, n.strip()) or re.fullmatch(last, n.strip()) for n in names]
    return first_synonyms([found and found["name"].strip(' "') for found in matches])


def first_synonyms(names: Sequence[str | None]) -> Found:
    """Returns the first of synonyms with commas; all of them where classes share the first."""
    short = [name and name.split(",")[0].strip() for name in names]
    times = Counter(short)
    return [
        one if one and times[one] == 1 else many for one, many in zip(short, names, strict=True)
    ]


def _number_before(names: Sequence[str]) -> Found:
    """Returns names after an index: one that is padded with zeros, or counts from 0 or 1."""
    matches = [NUMBERED.fullmatch(name.strip()) for name in names]
    found = [
        m[3] if m and not m[3][0].isdigit() and any(map(str.isalpha, m[3])) else None
        for m in matches
    ]
    kept = [m for m, name in zip(matches, found, strict=True) if m and name]
    numbers = [m[1] for m in kept]
    marked = all(m[2].strip() in (".", ":", ")", ",", ";") for m in kept)
    padded = len({*map(len, numbers)}) == 1 and any(n.startswith("0") for n in numbers)
    counted = bool(numbers) and min(map(int, numbers)) <= 1
    counted &= max(map(int, numbers), default=0) <= len(names) / NEARLY_ALL
    distinct = len({*map(int, numbers)}) == len(numbers)
    return found if distinct and (marked or padded or counted) else [None] * len(names)


def _number_after(names: Sequence[str]) -> Found:
    """Returns names before a number, where the numbers are just those of all labels."""
    matches = [
        re.fullmatch(r"(.*[^\W\d].*?)[\s._\-:,;=]+(\d{1,9})", name.strip()) for name in names
    ]
    numbers = sorted(int(m[2]) for m in matches if m)
    if numbers in (list(range(len(names))), list(range(1, len(names) + 1))):
        return [m and m[1] for m in matches]
    return [None] * len(names)


def twice(names: Sequence[str]) -> Found:
    """Returns the name of "airplane_cabin airplane_cabin"."""
    return [(m := re.fullmatch(r"(.+?)[\s,:;=]+\1", name.strip())) and m[1] for name in names]


def _path(names: Sequence[str]) -> Found:
    """Returns the words of "/a/apartment_building/outdoor", as Places names its classes."""
    matches = [re.fullmatch(r"/(?:\w/)?(\S.*)", name.strip()) for name in names]
    return [found and found[1].replace("/", " ") for found in matches]


def _camel(names: Sequence[str]) -> Found:
    """Returns "AnnualCrop" as two words, if all names are capitalised words without any space."""
    if not all(CAMEL.fullmatch(name) for name in names):
        return [None] * len(names)
    words = [" ".join(re.findall("[A-Z][a-z]+", name)) for name in names]
    joined = sum(" " in each for each in words)
    return list(words) if joined >= max(2, JOINED * len(names)) else [None] * len(names)


def _marks(mark: str) -> Callable[[Sequence[str]], Found]:
    """Returns the pattern of names in which a mark stands between words, and no space or "_"."""
    joined = re.compile(rf"[^\W_]+(?:{re.escape(mark)}[^\W_]+)+")
    letter = re.compile(r"[^\W\d_]{2}")

    def find(names: Sequence[str]) -> Found:
        if any(re.search(r"[\s_]", name) for name in names):
            return [None] * len(names)
        return [
            name.replace(mark, " ") if joined.fullmatch(name) and letter.search(name) else None
            for name in names
        ]

    return find


PATTERNS: tuple[tuple[str, Callable[[Sequence[str]], Found]], ...] = (
    ("levels above the genus left out", _levels),
    ("WordNet id left out", wordnet),
    ("number in front left out", _number_before),
    ("number at the end left out", _number_after),
    ("said once", twice),
    ("path read as words", _path),
    ("joined words parted", _camel),
    ("'-' read as a space", _marks("-")),
    ("'.' read as a space", _marks(".")),
    ("'+' read as a space", _marks("+")),
)
