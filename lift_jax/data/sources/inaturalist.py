"""iNaturalist's JSON files (2018, 2019, 2021), at any level of the taxonomy.

The files have the layout of COCO: `images` (id, file_name), `annotations` (image_id, category_id)
and `categories` (id, name, and the levels kingdom to genus).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lift_jax.data.names import same
from lift_jax.data.sources import labelled_paths
from lift_jax.data.sources.labelled_paths import LabelledPaths
from lift_jax.data.sources.paths import file, folder, read_text, split_files
from lift_jax.data.types import Dataset
from lift_jax.errors import UserError, unknown
from lift_jax.settings.groups.data import DataSettings
from lift_jax.storage.reading import parse_json

LEVELS = ("kingdom", "phylum", "class", "order", "family", "genus", "species")
Categories = dict[int | str, dict[str, Any]]  # by their ids


def inaturalist(settings: DataSettings, seed: int) -> Dataset:
    """Reads the competition's JSON: `data.train_list`, `data.test_list` and, if given, `val_list`.

    Paths in the files are relative to `data.root`. Where the JSON has numbers (2018) or made-up
    words (2019) for names, `data.class_names` names the categories.json that the organisers
    published later. Classes are the taxa of `data.level`. Labels count them in the order in which
    Python sorts their names, as in the authors' code, so that their checkpoints fit. Taxa that
    share a name (a genus of plants and one of birds) are separate classes. The papers test on the
    validation images, because the test split has no public labels.
    """
    if settings.level not in LEVELS:
        raise unknown("level (data.level)", settings.level, LEVELS)
    root = folder(settings.root)
    sources = split_files(settings, root, needed=("train", "test"))
    files = {split: _read(path) for split, path in sources.items()}
    own = {
        split: _categories(_entries(file, "categories", sources[split]), sources[split])
        for split, file in files.items()
    }
    for split, found in own.items():
        _check_same(own["train"], found, sources["train"], sources[split])
    named, source = own["train"], sources["train"]
    if settings.class_names:
        source = file(root, settings.class_names, "data.class_names")
        named = _categories(_named(_read(source), source), source)
    labels, names = classes(named, settings.level, source)
    read = {split: _listing(files[split], sources[split], labels, source) for split in files}
    return labelled_paths.dataset(root, read, names, f"{source} has {len(names)} at this level")


def classes(
    categories: Categories, level: str, source: Path
) -> tuple[dict[int | str, int], list[str]]:
    """Returns the label of every category, and the names of the classes.

    Raises UserError for categories without the level or with numbers for names, and for two species
    of one name and one taxonomy.
    """
    taxa = {key: _taxon(category, level, source) for key, category in categories.items()}
    if all(taxon[-1].isdigit() for taxon in taxa.values()):
        raise UserError(
            f"{source} has numbers for names, as {next(iter(taxa.values()))[-1]!r}. Set "
            "data.class_names to categories.json, from the page of the competition."
        )
    if level == "species" and len(set(taxa.values())) < len(taxa):
        seen: dict[tuple[str, ...], int | str] = {}
        for key, taxon in taxa.items():
            if (first := seen.setdefault(taxon, key)) != key:
                raise UserError(
                    f"{source}: the categories {first} and {key} are both {taxon[-1]!r}."
                )
    order = sorted(set(taxa.values()), key=lambda taxon: (taxon[-1], taxon))
    label = {taxon: i for i, taxon in enumerate(order)}
    return {key: label[taxon] for key, taxon in taxa.items()}, [taxon[-1] for taxon in order]


def _taxon(category: Mapping[str, Any], level: str, source: Path) -> tuple[str, ...]:
    """Returns the names of a category from the kingdom down to a level, "" for absent ones.

    The name of the species is the category's name.
    """
    above = [category.get(each, "") for each in LEVELS[: LEVELS.index(level)]]
    key = "name" if level == "species" else level
    name = category.get(key)
    if not isinstance(name, str) or not name or not all(isinstance(each, str) for each in above):
        raise UserError(
            f"{source}: the category {category['id']!r} has no {key!r}, as data.level={level} "
            f"needs; it has {', '.join(map(str, category))}. Set data.class_names to "
            "categories.json, from the page of the competition, or choose another level."
        )
    place = f"{source}, category {category['id']!r}"
    return (*above, labelled_paths.check_text(name, place))


# --- the JSON ---


def _read(path: Path) -> Any:
    return parse_json(read_text(path), str(path), object)


def _named(content: Any, source: Path) -> Any:
    """Returns the categories of categories.json, or of a competition's whole file."""
    return content if isinstance(content, list) else _entries(content, "categories", source)


def _entries(content: Any, key: str, source: Path) -> list[Any]:
    found = content.get(key) if isinstance(content, dict) else None
    if not isinstance(found, list) or not found:
        raise UserError(
            f"{source} has no list {key!r}: expected the JSON of iNaturalist's competitions, with "
            "images, annotations and categories. The JSON of a test split has no annotations: "
            "take that of the validation split."
        )
    return found


def _categories(entries: list[Any], source: Path) -> Categories:
    return _by_id(entries, "category", source)


def _by_id(entries: list[Any], kind: str, source: Path) -> dict[int | str, dict[str, Any]]:
    found = {}
    for i, entry in enumerate(entries):
        key = _id(entry, "id", f"{source}, {kind} {i} (from 0)")
        if key in found:
            raise UserError(f"{source}: the {kind} {key!r} is there twice.")
        found[key] = entry
    return found


def _id(entry: Any, key: str, place: str) -> int | str:
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, int | str) or isinstance(value, bool):
        raise UserError(f"{place}: expected an entry with {key!r}, found {str(entry)[:100]}.")
    return value


def _check_same(train: Categories, other: Categories, source: Path, at: Path) -> None:
    for key, category in other.items():
        if (
            key in train
            and (names := [c.get("name") for c in (train[key], category)])[0] != names[1]
        ):
            raise UserError(
                f"The category {key!r} is {names[0]!r} in {source} but {names[1]!r} in {at}"
                f"{same.twin(str(names[1]), [str(names[0])])}: these are files of different data "
                "sets."
            )


def _listing(
    content: Any, path: Path, labels: Mapping[int | str, int], source: Path
) -> LabelledPaths:
    """Returns the images of one file in the order of their annotations.

    Raises UserError for an image without an annotation or with two, and for unknown ids.
    """
    images = _by_id(_entries(content, "images", path), "image", path)
    found: dict[int | str, int] = {}
    for i, entry in enumerate(_entries(content, "annotations", path)):
        place = f"{path}, annotation {i} (from 0)"
        image, category = _id(entry, "image_id", place), _id(entry, "category_id", place)
        if image not in images:
            raise UserError(f"{place}: there is no image {image!r} in the file.")
        if category not in labels:
            raise UserError(f"{place}: there is no category {category!r} in {source}.")
        if image in found:
            raise UserError(f"{place}: the image {image!r} has a second annotation. Keep one.")
        found[image] = labels[category]
    if lacking := [key for key in images if key not in found]:
        raise UserError(
            f"{path}: {len(lacking):,} of {len(images):,} images have no annotation, as "
            f"{lacking[0]!r}. Add them, or take these images out."
        )
    paths = []
    for image in found:
        name = images[image].get("file_name")
        place = f"{path}, image {image!r}"
        if not isinstance(name, str):
            raise UserError(f"{place}: expected a file_name, found {name!r}.")
        paths.append(labelled_paths.check_text(name, place))
    return LabelledPaths(
        [f"{path}, image {image!r}" for image in found], paths, list(found.values())
    )
