"""Data sets that TensorFlow Datasets has prepared as array_record, read without TensorFlow."""

import functools
import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from lift_jax.data.names import files as files_of_names
from lift_jax.data.names.same import shared_names
from lift_jax.data.sources import paths
from lift_jax.data.types import Dataset, EncodedImages, Split
from lift_jax.errors import DiskError, UserError, unknown
from lift_jax.output.terminal import Terminal, track
from lift_jax.settings.groups.data import DataSettings
from lift_jax.storage import atomic
from lift_jax.storage.cache import cache_folder

BATCH = 64  # records that are read at a time for their labels
PREPARE = "Prepare it with `tfds build {name} --file_format=array_record --data_dir={root}`"


@dataclass(frozen=True, eq=False)
class TfdsImages(EncodedImages):
    """The images of a split, encoded as they were prepared. `rows` are their indices in it."""

    home: str
    split: str
    feature: str
    rows: Int[np.ndarray, "n"]

    def __len__(self) -> int:
        return len(self.rows)

    def content(self, i: int) -> bytes:
        """Returns the encoded image. Raises UserError if its shard cannot be read."""
        try:
            return _source(self.home, self.split, self.feature)[int(self.rows[i])][self.feature]
        # the readers of records and protocol buffers do not document what damaged bytes raise
        except Exception as error:
            raise _unreadable(self.name(i), error) from error

    def name(self, i: int) -> str:
        return f"{self.home}, {self.split}, image {self.rows[i]}"

    def take(self, rows: Int[np.ndarray, "m"]) -> "TfdsImages":
        return replace(self, rows=self.rows[rows])


def tfds(settings: DataSettings, seed: int) -> Dataset:
    """Reads an image data set that TFDS has prepared as array_record below `data.root`.

    `data.tfds` is its name: "imagenet_lt", "cifar100:3.0.2" or "name/config:version". Without a
    version, the highest one is read. If the split "test" has labels, it is the test split and
    "validation" the validation split; otherwise "validation" is the test split. Class names come
    from the data set or from the lines of `data.class_names`. Labels lie in the records beside the
    images, so the first run reads all records. The labels are then kept in the user's cache until
    the size or time of a file of the data set changes.

    Raises UserError for a data set that is missing, damaged, of another format or without the
    splits, and for class names of another number than its classes.
    """
    root = paths.folder(settings.root)
    home = locate(root, settings.tfds)
    info = _builder(str(home)).info
    _check_format(info, home, root)
    image, label = _features(info, home)
    notes: list[str] = []
    names, why = list(info.features[label].names), f"{home} has {info.features[label].num_classes}"
    if settings.class_names:
        source = paths.file(root, settings.class_names, "data.class_names")
        given = files_of_names.read(source, settings.clean_names)
        names, notes = given.names, given.notes
        if len(names) != info.features[label].num_classes:
            raise UserError(f"{source} names {len(names)} classes, but {why}.")
    full = [name for name, split in info.splits.items() if split.num_examples]
    notes, found = [*notes, *shared_names(names)], {}
    for split in (each for each in ("train", "test", "validation") if each in full):
        if split == "test" and "validation" in full and _first(home, split, image, label) < 0:
            notes.append(f"The test split of {home} has no labels: tested on 'validation'.")
            continue
        found[split] = _split(home, split, image, label, names)
    if "train" not in found or len(found) == 1:
        raise UserError(
            f"{home} has images in {' and '.join(map(repr, full)) or 'no split'}: expected "
            "'train', and 'test' or 'validation'."
        )
    train, test, *val = found.values()
    return Dataset(train, test, tuple(names), val=val[0] if val else None, notes=tuple(notes))


# --- the folder of a version ---


def locate(root: Path, name: str) -> Path:
    """Returns the directory of a version of a data set, such as ROOT/cifar100/3.0.2.

    Raises UserError, which lists what there is, if it does not exist.
    """
    asked = re.fullmatch(r"(\w+)(?:/([\w.+-]+))?(?::(\w+\.\w+\.\w+))?", name)
    if not asked:
        raise UserError(
            f"data.tfds is {name!r}: expected a data set of TFDS, as imagenet_lt, cifar100:3.0.2 "
            "or name/config:1.0.0."
        )
    present = [each.name for each in root.iterdir() if each.is_dir()]
    if asked[1] not in present:
        error = unknown("data set (data.tfds)", asked[1], present)
        raise UserError(f"{error} {PREPARE.format(name=asked[1], root=root)}.")
    home = root / asked[1] / (asked[2] or "")
    below = sorted(each.name for each in home.iterdir() if each.is_dir()) if home.is_dir() else []
    prepared = [each for each in below if (home / each / "features.json").is_file()]
    if asked[3] in prepared:
        return home / asked[3]
    if asked[3] is None and prepared:
        return home / max(prepared, key=lambda each: [int(n) for n in re.findall("[0-9]+", each)])
    wanted = f"the version {asked[3]}" if asked[3] else "a prepared version"
    raise UserError(
        f"{home} does not hold {wanted}: it holds {', '.join(below) or 'nothing'}. A configuration "
        f"is named as data.tfds={asked[1]}/CONFIG. {PREPARE.format(name=asked[1], root=root)}."
    )


@functools.cache
def _builder(home: str) -> Any:
    import tensorflow_datasets  # takes a second to import

    try:
        return tensorflow_datasets.builder_from_directory(home)
    except Exception as error:  # damaged JSON files raise many kinds
        raise _unreadable(home, error) from error


def _check_format(info: Any, home: Path, root: Path) -> None:
    formats = sorted(each.value for each in info.available_file_formats())
    if "array_record" not in formats:
        raise UserError(
            f"{home} is prepared as {', '.join(formats) or 'nothing'}, which cannot be read at "
            f"random without TensorFlow. {PREPARE.format(name=info.name, root=root)}, or convert "
            "it with `python -m tensorflow_datasets.scripts.convert_format`."
        )


def _features(info: Any, home: Path) -> tuple[str, str]:
    """Returns the names of the image and of the label among the features."""
    from tensorflow_datasets import features

    found = {}
    for kind in (features.Image, features.ClassLabel):
        of_kind = [k for k, f in info.features.items() if isinstance(f, kind)]
        usual = [k for k in of_kind if k in ("image", "label")]
        if len(usual or of_kind) != 1:
            raise UserError(
                f"{home} is no set of images with one class each: of its features "
                f"{', '.join(info.features)}, {len(of_kind)} are of the kind {kind.__name__}."
            )
        found[kind] = (usual or of_kind)[0]
    return found[features.Image], found[features.ClassLabel]


# --- records ---


@functools.cache  # one in each process, because open files cannot be pickled
def _source(home: str, split: str, image: str) -> Sequence[dict[str, Any]]:
    from tensorflow_datasets import decode

    return _builder(home).as_data_source(
        split, decoders={image: decode.SkipDecoding()}, file_format="array_record"
    )


def _first(home: Path, split: str, image: str, label: str) -> int:
    try:
        return int(_source(str(home), split, image)[0][label])
    except Exception as error:  # as in `TfdsImages.content`
        raise _unreadable(f"{home}, {split}", error) from error


def _split(home: Path, split: str, image: str, label: str, names: Sequence[str]) -> Split:
    labels = _labels(home, split, image, label)
    wrong = np.flatnonzero((labels < 0) | (labels >= len(names)))
    if wrong.size:
        raise UserError(
            f"{home}, {split}, image {wrong[0]}: the label {labels[wrong[0]]} is out of range, "
            f"because there are {len(names)} classes."
        )
    return Split(TfdsImages(str(home), split, image, np.arange(len(labels))), labels)


def _labels(home: Path, split: str, image: str, label: str) -> Int[np.ndarray, "n"]:
    """Returns the labels of a split: from the cache, or from all of its records."""
    # all files, because the names of shards are not fixed
    files = [home / name for name in sorted(os.listdir(home))]
    stamps = [(str(f.absolute()), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    key = hashlib.sha256(json.dumps([stamps, split, label]).encode()).hexdigest()[:20]
    kept = cache_folder() / "labels" / f"{key}.npy"
    count = _builder(str(home)).info.splits[split].num_examples
    if (remembered := _kept_labels(kept, count)) is not None:
        return remembered
    try:
        source: Any = _source(str(home), split, image)
        found = [
            int(record[label])
            for start in track(
                range(0, len(source), BATCH),
                f"Reading the labels of {home.parent.name}, {split}",
                console=Terminal(stderr=True),
            )
            for record in source.__getitems__(range(start, min(start + BATCH, len(source))))
        ]
    except Exception as error:  # as in `TfdsImages.content`
        raise _unreadable(f"{home}, {split}", error) from error
    labels = np.array(found, np.int32)
    try:
        with atomic.replacement(kept) as partial, open(partial, "wb") as file:
            np.save(file, labels)
    except DiskError:
        pass  # without room in the cache, the next run reads them again
    return labels


def _kept_labels(file: Path, count: int) -> Int[np.ndarray, "n"] | None:
    """Returns the labels in a file of the cache; None if it is absent, or holds anything else."""
    try:
        with open(file, "rb") as content:
            found = np.lib.format.read_array(content, allow_pickle=False)
    except (OSError, ValueError):
        return None
    return found if found.shape == (count,) and found.dtype == np.int32 else None


def _unreadable(what: str, error: Exception) -> UserError:
    cause = (str(error) or type(error).__name__).splitlines()[0]
    return UserError(f"Cannot read {what}: {cause}. Prepare the data set again.")
