"""The division of a folder: which folders below it hold the classes of which split.

Where a name and the contents of folders leave several readings, nothing is guessed: an error says
what was found and what to do. Every reading beyond train/, val/ and test/ is told in a note.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from lift_jax.data.names import same
from lift_jax.data.sources.layouts import listing, split_words
from lift_jax.data.sources.layouts.listing import Listing
from lift_jax.data.sources.layouts.split_words import ALSO_CLASSES, Reading, is_date
from lift_jax.errors import UserError

NAMED = 6  # names that a message lists
KIND = {"train": "training", "val": "validation", "test": "test"}
# Words in the names of folders that are neither splits nor classes.
UNLABELLED = {"unlabeled", "unlabelled", "unsup", "pred", "predict", "prediction", "predictions",
              "sample", "samples", "extra", "submission", "inference", "raw", "demo", "examples",
              "figures", "figs", "docs", "assets", "backup", "old", "tmp", "misc"}  # fmt: skip


@dataclass
class Division:
    """The folders of a data set.

    Attributes:
        train: the folder of the classes to train.
        held: the folders of classes of "val" and "test", as far as there are any.
        flat: the folders named for validation or test that hold no class folders.
        used: by folder that was looked into, the names of the folders in it that are used.
        notes: sentences on what was taken as what, and on what is not used.
    """

    train: Path
    held: dict[str, Path] = field(default_factory=dict)
    flat: list[Path] = field(default_factory=list)
    used: dict[Path, Collection[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Candidate:
    """A folder with the name of a split. `holds` is "classes" or "images"."""

    name: str
    reading: Reading
    holds: str


def divide(root: Path, read: Collection[Path] = ()) -> Division:
    """Returns the division of a data set below `root`.

    Splits are folders whose names say so (see `split_words`) and that hold folders of images. They,
    or the classes, may lie some folders down, as long as each of these is the only one with images.
    `read` are files that settings name, which are used.
    Raises UserError where several readings are possible, or none.
    """
    home, used = root, {}
    while True:
        here = listing.read(home)
        found = _candidates(home, here)
        if found and (division := _with_splits(home, here, found)):
            division.notes += [_told(root, division), _unlabelled(division)]
            break
        if not (inner := _wrapped(home)):
            division = Division(home, used={home: here.folders})
            division.notes += [f"The classes are the folders in {home}."] * (home != root)
            division.notes += _named_as_splits(home, found)
            break
        used[home] = [inner]
        home /= inner
    division.used = used | division.used
    division.notes += [_aside(folder, names, read) for folder, names in division.used.items()]
    division.notes = list(filter(None, division.notes))
    return division


def _wrapped(folder: Path, known: Collection[str] = ()) -> str:
    """Returns the one folder with images in a folder that only wraps it, else "".

    A folder is not a wrapper if it holds folders of years or dates alone, or a class that is known.
    """
    inner = listing.with_images(folder, 2)
    if len(inner) != 1 or same.key(inner[0]) in known:
        return ""
    names = listing.read(folder / inner[0]).folders
    wraps = not all(map(is_date, names)) and listing.with_images(folder / inner[0], 1)
    return inner[0] if wraps else ""


# --- folders with the names of splits ---


def _candidates(home: Path, here: Listing) -> list[Candidate]:
    """Returns the folders with images whose names speak of a split.

    Other words in such a name (bullet_train) make it that of a class, unless the folder of another
    split has the same (seg_train, seg_test).
    """
    readings = {name: split_words.read(name) for name in here.folders}
    read = {name: reading for name, reading in readings.items() if reading}
    found = []
    for name, own in read.items():
        paired = any(o.rest == own.rest and o.split != own.split for o in read.values())
        if own.rest and not paired:
            continue
        if listing.with_images(home / name, 1):
            found.append(Candidate(name, own, "classes"))
        elif listing.read(home / name).images:
            found.append(Candidate(name, own, "images"))
    return found


def _with_splits(home: Path, here: Listing, found: list[Candidate]) -> Division | None:
    """Returns the division by folders with the names of splits, None if they name classes."""
    others = [name for name in here.folders if name not in {each.name for each in found}]
    train = _pick(home, found, "train")
    if train is None:
        _check_classes(home, found, others)
        return None
    if len(found) == 1:
        _check_alone(home, train, others)
    root, inside = _classes_of(home / train)
    known = {same.key(name) for name in listing.read(root).folders}
    division = Division(root)
    used = {train: inside}
    for split in ("test", "val"):
        if held := _pick(home, found, split):
            below, inside = _classes_of(home / held, known)
            used[held] = inside
            if _is_flat(below, known):
                division.flat.append(below)
            else:
                division.held[split] = below
    flat = [each.name for each in found if each.holds == "images" and each.reading.split != "train"]
    flat += [name for name in here.folders if name not in used and _is_bare(home / name)]
    division.flat += [home / name for name in flat]
    division.used = {home: [*used, *flat]}
    for inside in used.values():
        division.used |= inside
    return division


def _is_bare(folder: Path) -> bool:
    """Returns True for a folder named for validation or test that holds no image at all."""
    reading = split_words.read(folder.name)
    named = reading and not reading.rest and reading.split != "train"
    return bool(named) and not listing.holds_images(folder)


def _pick(home: Path, found: list[Candidate], split: str) -> str | None:
    """Returns the folder of a split: the only one, or else the one that is named by the word alone.

    Raises UserError if several could be meant.
    """
    own = [each for each in found if each.reading.split == split and each.holds == "classes"]
    for fits in (
        lambda each: each.name == split,
        lambda each: each.reading.word,
        lambda each: True,
    ):
        fitting = [each.name for each in own if fits(each)]
        if len(fitting) == 1:
            return fitting[0]
        if len(fitting) > 1:
            raise UserError(
                f"{home} has {len(fitting)} folders that could hold the {KIND[split]} images: "
                f"{_listed(fitting)}. Name the one to use {split!r}, or move the others away."
            )
    return None


def _check_classes(home: Path, found: list[Candidate], others: list[str]) -> None:
    """Raises UserError unless folders with the names of splits must be classes.

    They are if they hold images directly, as the folder `train` beside `bus` and `car`, or folders
    that those beside them do not hold.
    """
    flat = [each.name for each in found if each.holds == "images"]
    held = [each.name for each in found if each.reading.split != "train"]
    beside = [name for name in others if listing.holds_images(home / name)]
    shown = _listed([each.name for each in found])
    if flat and len(flat) == len(found) and (not beside or len(found) > 1):
        first = listing.read(home / flat[0]).images[0]
        raise UserError(
            f"{home} has {shown}, which hold images directly (as {flat[0]}/{first}), so no folder "
            f"tells the class of an image. Expected {flat[0]}/CLASS/{first}. If a file or the "
            "images' names tell the classes, give a list or a table (data.name=list, "
            "data.name=table)."
        )
    if all(
        each.reading.word in ALSO_CLASSES
        and (each.holds == "images" or not any(_share(home, each.name, name) for name in beside))
        for each in found
    ):
        return
    raise UserError(
        f"{home} has {shown}, the name{'s' * (len(found) > 1)} of a split, but no folder of "
        f"training images with one folder for each class{_beside(beside)}. Name that folder "
        f"'train', as in train/CLASS/image.jpg; or, if {held[0] if held else shown} is a class, "
        "give its folder another name."
    )


def _beside(names: list[str]) -> str:
    return f" (beside it: {_listed(names)})" if names else ""


def _named_as_splits(home: Path, found: list[Candidate]) -> list[str]:
    """Returns a note on classes with the names of splits."""
    return [
        f"{each.name!r} is taken as a class, not as a split, as the folders beside it in {home}."
        for each in found
    ]


def _share(home: Path, one: str, other: str) -> bool:
    """Returns True if two folders hold folders of the same name, or the other one holds splits."""
    names = {same.key(name) for name in listing.read(_classes_of(home / one)[0]).folders}
    others = listing.read(_classes_of(home / other)[0]).folders
    return any(same.key(name) in names or split_words.read(name) for name in others)


def _check_alone(home: Path, train: str, others: list[str]) -> None:
    """Raises UserError if a lone folder of training images may be a class among others."""
    apart = [
        name
        for name in others
        if not UNLABELLED & set(re.split(r"[\W\d_]+", name.casefold()))
        and listing.holds_images(home / name)
        and not _share(home, train, name)
    ]
    if len(apart) > 1 or (apart and listing.with_images(home / apart[0], 1)):
        raise UserError(
            f"{home} has {train!r}, the name of a split, and beside it {_listed(apart)}, which "
            f"hold other images. If {train!r} is a class like these, move the images in its "
            f"folders up into {home / train}; if it is the training split, move the others away."
        )


# --- the classes in the folder of a split ---


def _classes_of(
    folder: Path, known: Collection[str] = ()
) -> tuple[Path, dict[Path, Collection[str]]]:
    """Returns the folder of the classes in that of a split: itself, or one that it wraps.

    The second value are the folders looked into, with the names used in each. `known` are the
    classes of the training split, as `same.key`, which are no wrappers.
    """
    used: dict[Path, Collection[str]] = {}
    while inner := _wrapped(folder, known):
        used[folder] = [inner]
        folder /= inner
    return folder, used | {folder: listing.read(folder).folders}


def _is_flat(folder: Path, known: Collection[str]) -> bool:
    """Returns True if the folder of a split holds a single folder with images, which is no class
    that is known (val/images, test/unknown)."""
    inner = listing.with_images(folder, 2)
    return len(inner) == 1 and same.key(inner[0]) not in known


# --- notes ---


def _told(root: Path, division: Division) -> str:
    """Returns a note that names the folders of the splits, "" for train, val and test as such."""
    held = dict(division.held)
    if set(held) == {"val"}:
        held = {"test": held["val"]}
    used = {"train": division.train} | {key: held[key] for key in ("val", "test") if key in held}
    if all(path == root / split for split, path in used.items()):
        return ""
    listed = (f"{KIND[split]} from {path.relative_to(root)}" for split, path in used.items())
    return f"Splits in {root}: {', '.join(listed)}."


def _unlabelled(division: Division) -> str:
    """Returns a note on folders for validation or test that hold no class folders."""
    if not division.flat:
        return ""
    shown = _listed([str(path) for path in division.flat])
    lacks = "test" not in division.held and "val" not in division.held
    instead = " A share of the training images is held out to test (data.test_share)." * lacks
    return f"Not used, because no class folder with images is in it: {shown}.{instead}"


def _aside(folder: Path, used: Collection[str], read: Collection[Path]) -> str:
    """Returns a note on what lies in a folder and is not used, "" if there is nothing."""
    here = listing.read(folder)
    names = [f"{name}/" for name in here.folders if name not in used]
    if here.images:
        many = f"{len(here.images):,} image{'s' * (len(here.images) > 1)}"
        names.append(f"{many} directly in it (first: {here.images[0]})")
    others = (name for name in here.others if folder / name not in read)
    names += [name for name in others if not name.casefold().startswith(("readme", "licen"))]
    return f"Not used in {folder}: {_listed(names)}." if names else ""


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
