"""Tables: CSV, TSV or JSON lines, with a path and a label or class for each image."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from lift_jax.data.names import files, same
from lift_jax.data.names.files import NameFile
from lift_jax.data.sources import labelled_paths, paths
from lift_jax.data.sources.folders import with_test
from lift_jax.data.sources.image_files import natural_key
from lift_jax.data.sources.labelled_paths import LabelledPaths
from lift_jax.data.sources.lists import checked_label, count_classes, first_label
from lift_jax.data.types import Dataset, Fault
from lift_jax.errors import UserError, shown
from lift_jax.settings.groups.data import DataSettings
from lift_jax.storage.reading import parse_json

COLUMNS = ("path", "label", "class", "split")
SPLITS = {"train": "train", "val": "val", "validation": "val", "test": "test"}
SEPARATORS = {";": "semicolons", "\t": "tabs", ",": "commas"}  # spreadsheets write all of them
UNKNOWN = -1  # the label of a class that is none of the known ones
Row = tuple[str, dict[str, str]]  # its location for messages, and its values by column
Line = tuple[str, Callable[[], dict[str, str]]]  # the same, with the values still to be read


def table(settings: DataSettings, seed: int) -> Dataset:
    """Reads tables: `data.train_list` and, if given, `data.test_list` and `data.val_list`.

    The name of a table ends in .csv or .tsv, with the names of its columns in line 1, or in .jsonl.
    Its columns are `path` (relative to `data.root`), `label` (counted from 0) or `class` (a name)
    or both. A single table may have a column `split` (train, val or validation, test). Other
    columns are ignored. Without a test split, the seed holds out `data.test_share` of every class.
    Without labels, classes are in natural order or in the order of the file `data.class_names`.

    Raises UserError for files that are missing or no such tables, and without a row for training.
    """
    root = paths.folder(settings.root)
    sources = paths.split_files(settings, root, needed=("train",))
    tables, faults = {}, []
    for split, path in sources.items():
        tables[split], broken = _rows(path)
        faults += broken
    divided = any("split" in row for rows in tables.values() for _, row in rows)
    if divided and len(sources) > 1:
        raise UserError(
            f"{sources['train']} or another table has a column 'split', and there are tables of "
            "several splits. Give data.train_list alone, or take the column out."
        )
    rows = [(split, row) for split, rows in tables.items() for row in rows]
    if divided:
        rows = [(_split(row), row) for _, row in rows]
    if not (train := [row for split, row in rows if split == "train"]):
        raise UserError(f"{sources['train']} has no row of the split 'train'.")
    source, given = sources["train"], None
    if settings.class_names:
        source = paths.file(root, settings.class_names, "data.class_names")
        given = files.read(source, settings.clean_names)
    labels, names = _labels([row for _, row in rows], train, given, source, whole=not faults)
    faults += _unknown_classes(rows, labels, given, source)
    notes = given.notes if given else []
    if given and all("label" in row for _, (_, row) in rows):
        notes += first_label(labels, names)
    named = given is not None or all("class" in row for _, (_, row) in rows)
    read = _by_split(rows, labels, faults)
    why = f"{source} has {len(names)}"
    data = labelled_paths.dataset(root, read, names, why, notes=notes, named=named, faults=faults)
    if len(data.test):
        return data
    return with_test(data, settings.test_share, seed, sources["train"])


def _by_split(
    rows: list[tuple[str, Row]], labels: list[int], faults: list[Fault]
) -> dict[str, LabelledPaths]:
    """Returns the rows of known classes by split; there is always one for test.

    Raises UserError with the first fault if none is left to train.
    """
    read = {}
    for split in ("train", "test", "val"):
        kept = [
            (place, row["path"], label)
            for (of, (place, row)), label in zip(rows, labels, strict=True)
            if of == split and label != UNKNOWN
        ]
        if kept:
            read[split] = LabelledPaths(*zip(*kept, strict=True))
        elif split == "train":
            raise UserError(faults[0].cause)
        elif split == "test":
            read[split] = LabelledPaths((), (), ())
    return read


# --- rows ---


def _rows(path: Path) -> tuple[list[Row], list[Fault]]:
    """Returns the rows that are not blank, and a fault for each that cannot be read.

    Raises UserError if none can, as where columns are missing.
    """
    readers = {".csv": _separated, ".tsv": _separated, ".jsonl": _objects}
    if path.suffix.lower() not in readers:
        raise UserError(
            f"{path} is not a table: expected a name that ends in .csv, .tsv or .jsonl. For a file "
            "with lines `path label`, set data.name=list."
        )
    lines = readers[path.suffix.lower()](path)
    found, faults = labelled_paths.parsed(
        (place, partial(_row, place, read)) for place, read in lines
    )
    if not found:
        raise UserError(f"{path} has no rows.")
    return found, faults


def _row(place: str, read: Callable[[], dict[str, str]]) -> Row:
    """Returns a row. Raises UserError if it lacks columns, or a value is empty."""
    row = read()
    _check_columns(place, list(row))
    row = {key: row[key] for key in COLUMNS if key in row}
    for value in row.values():
        labelled_paths.check_text(value, place)
    if "label" in row:
        _label(place, row)
    return place, row


def _check_columns(place: str, names: list[str]) -> None:
    """Raises UserError if the names of columns lack those of an image and its class."""
    if "path" not in names or not ("label" in names or "class" in names):
        raise UserError(
            f"{place}: expected the columns 'path' and 'label' or 'class', found {shown(names)}. "
            "Rename the columns."
        )


def _check_separator(place: str, names: list[str], expected: str) -> None:
    """Raises UserError if the columns are one, because another separator is between them."""
    if len(names) == 1 and (found := [s for s in SEPARATORS if s in names[0]]):
        raise UserError(
            f"{place}: {SEPARATORS[found[0]]} separate the columns, expected "
            f"{SEPARATORS[expected]}. Save the table as .csv with commas, or as .tsv with tabs."
        )


def _separated(path: Path) -> Iterator[Line]:
    text = paths.read_text(path)
    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    header: list[str] | None = None
    try:
        for values in lines:
            place = f"{path}, line {lines.line_num}"
            if not any(value.strip() for value in values):
                continue
            if header is None:
                header = [value.strip().casefold() for value in values]
                if twice := {name for name in header if name in COLUMNS and header.count(name) > 1}:
                    raise UserError(f"{place}: the column {twice.pop()!r} is there twice.")
                _check_separator(place, header, separator)
                _check_columns(place, header)
                continue
            yield place, partial(_cells, place, values, header)
    except csv.Error as error:
        raise UserError(f"{path}, line {lines.line_num}: {error}.") from error


def _cells(place: str, values: list[str], header: list[str]) -> dict[str, str]:
    """Returns the values of a line by column. Raises UserError if they are more or fewer."""
    if len(values) != len(header):
        raise UserError(
            f"{place}: expected {len(header)} values, as the columns "
            f"{', '.join(header)}, found {len(values)}. A value that holds a separator "
            'stands in quotes: "a, b.jpg".'
        )
    return dict(zip(header, (value.strip() for value in values), strict=True))


def _objects(path: Path) -> Iterator[Line]:
    for number, line in paths.read_lines(path):
        place = f"{path}, line {number}"
        yield place, partial(_object, place, line)


def _object(place: str, line: str) -> dict[str, str]:
    """Returns the values of a JSON line by column. Raises UserError for values of other kinds in
    the columns that are read."""
    row = parse_json(line, place)
    for key in (key for key in COLUMNS if key in row):
        value = row[key]
        if key == "label" and isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str):
            raise UserError(f"{place}: {key!r} is {json.dumps(value)[:100]}, expected text.")
        row[key] = value
    return row


# --- the meaning of rows ---


def _split(row: Row) -> str:
    place, values = row
    name = values.get("split", "")
    if name.casefold() not in SPLITS:
        raise UserError(f"{place}: the split is {name!r}, expected {', '.join(SPLITS)}.")
    return SPLITS[name.casefold()]


def _labels(
    rows: list[Row], train: list[Row], given: NameFile | None, source: Path, whole: bool
) -> tuple[list[int], list[str]]:
    """Returns the label of every row and the class names.

    The label is `UNKNOWN` for classes without training images, or that `given` lacks. Raises
    UserError for labels and classes that do not go together.
    """
    numbered, named = (all(key in row for _, row in rows) for key in ("label", "class"))
    if not numbered and not named:
        raise UserError(f"{rows[0][0]}: some rows have a 'label' and others a 'class' alone.")
    if not numbered:
        return _by_name(rows, train, given, source)
    labels, told = [_label(*row) for row in rows], {}
    for label, (place, row) in zip(labels, rows, strict=True):
        if named and (first := told.setdefault(label, row["class"])) != row["class"]:
            raise UserError(
                f"{place}: the label {label} has the class {row['class']!r}, but {first!r} before"
                f"{same.twin(row['class'], [first])}. A label has one class."
            )
    if given is None:
        many = count_classes([_label(*row) for row in train], source, whole)
        return labels, [told.get(c, f"class {c}") for c in range(many)]
    for label, name in told.items():
        if label < len(given.names) and not _same_class(name, given, label):
            raise UserError(
                f"The label {label} is {name!r} in the table but {given.names[label]!r} in "
                f"{source}."
            )
    return labels, given.names


def _same_class(name: str, given: NameFile, label: int) -> bool:
    """Returns True if a name is that of a label in a file of names, or the key in its line."""
    alike = same.key(name) == same.key(given.names[label])
    return alike or bool(files.match([given.lines[label]], [name])[0][0])


def _by_name(
    rows: list[Row], train: list[Row], given: NameFile | None, source: Path
) -> tuple[list[int], list[str]]:
    places: dict[str, str] = {}
    for place, row in rows:
        places.setdefault(row["class"], place)
    if two := same.alike(places):
        raise UserError(
            f"{places[two[1]]}: the classes {same.pair(*two)} look like one; the first is in "
            f"{places[two[0]]}. Spell them alike."
        )
    if given is None:
        keys = names = sorted({row["class"] for _, row in train}, key=natural_key)
    else:
        keys, names = given.by_key(places)
    label = {name: i for i, name in enumerate(keys)}
    if len(label) < len(names):
        twice = next(name for name in keys if keys.count(name) > 1)
        raise UserError(
            f"{source} has the name {twice!r} twice, so the class of an image is not known by it. "
            "Give the table a column 'label'."
        )
    return [label.get(row["class"], UNKNOWN) for _, row in rows], names


def _unknown_classes(
    rows: list[tuple[str, Row]], labels: list[int], given: NameFile | None, source: Path
) -> list[Fault]:
    """Returns a fault for each row with the label `UNKNOWN`."""
    lacking = f"{source} lacks it" if given else "no image of it is for training"
    return [
        Fault(
            "unknown class", row["path"], f"{place}: the class is {row['class']!r}, but {lacking}.",
            stops=True,
        )
        for (_, (place, row)), label in zip(rows, labels, strict=True)
        if label == UNKNOWN
    ]  # fmt: skip


def _label(place: str, values: dict[str, str]) -> int:
    if not (values["label"].isascii() and values["label"].isdigit()):
        raise UserError(
            f"{place}: the label is {values['label']!r}, expected a number that counts from 0. "
            "Names of classes belong into a column 'class'."
        )
    return checked_label(values["label"], place)
