"""The places that data sets come from: folders, list files, archives."""

import os
import re
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from lift_jax.data.images import FileImages, Split
from lift_jax.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


# --- folders: a directory a class ---


def natural_key(name: str) -> tuple:
    """Sorts as people count: class_2 before class_10."""
    parts = re.split(r"(\d+)", name.casefold())
    return tuple(int(part) if i % 2 else part for i, part in enumerate(parts)), name


def folder_classes(root: Path) -> dict[str, list[str]]:
    """Returns the image paths, relative to `root`, of each directory in it, in natural order.

    Images may lie in directories below a class's own. Hidden files and directories are passed over.
    """
    found: dict[str, list[str]] = {}
    entries = [e for e in _listdir(root) if not e.startswith((".", "__MACOSX"))]
    for name in sorted(entries, key=natural_key):
        if not (root / name).is_dir():
            continue
        paths = []
        for parent, folders, files in os.walk(root / name):
            folders[:] = [f for f in folders if not f.startswith(".")]
            below = os.path.relpath(parent, root)
            paths += [
                os.path.join(below, f)
                for f in files
                if f.lower().endswith(SUFFIXES) and not f.startswith(".")
            ]
        if not paths:
            raise UserError(
                f"The class directory {root / name} holds no images (expected files that end in "
                f"{', '.join(SUFFIXES)}). Add images, or delete the directory."
            )
        found[name] = sorted(paths, key=natural_key)
    if not found:
        loose = sum(e.lower().endswith(SUFFIXES) for e in entries)
        raise UserError(
            f"{root} holds no class directories (found {loose} images directly in it). Expected "
            f"a directory a class, named as the class, as in {root / 'tabby cat' / 'image1.jpg'}."
        )
    return found


def _listdir(root: Path) -> list[str]:
    try:
        return os.listdir(root)
    except OSError as error:
        raise UserError(
            f"Cannot open the directory {root}: {error.strerror}. Set data.root to the directory "
            "of the images."
        ) from error


def folder_split(root: Path, classes: dict[str, list[str]], names: Sequence[str]) -> Split:
    """Returns the images of `classes`, labelled by their place in `names`."""
    labels = {name: i for i, name in enumerate(names)}
    paths = [path for files in classes.values() for path in files]
    sizes = [len(files) for files in classes.values()]
    return Split(FileImages(str(root), paths), np.repeat([labels[name] for name in classes], sizes))


def hold_out(
    classes: dict[str, list[str]], share: float, seed: int
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Divides every class into training and test images, `share` of it (rounded) for the test.

    A class of two or more images has at least one on either side; a single image is for training.
    """
    train, test = {}, {}
    for c, (name, paths) in enumerate(classes.items()):
        held = min(len(paths) - 1, max(1, round(share * len(paths))))
        order = np.random.default_rng((seed, c)).permutation(len(paths))
        train[name] = [paths[i] for i in sorted(order[held:])]
        if held:
            test[name] = [paths[i] for i in sorted(order[:held])]
    return train, test


# --- list files: `path label` a line ---


def read_list(path: Path, root: str) -> tuple[Split, list[int]]:
    """Reads a list file. Returns its split and the line number (1-based) of every image."""
    paths, labels, lines = [], [], []
    for number, line in read_lines(path):
        words = line.rsplit(maxsplit=1)
        if len(words) != 2 or not (words[1].isascii() and words[1].isdigit()):
            raise UserError(
                f"{path}, line {number}: expected `path label` with a label of 0 or more, as in "
                f"`train/cat/1.jpg 0`, found {line!r}."
            )
        if int(words[1]) > np.iinfo(np.int32).max:
            raise UserError(f"{path}, line {number}: the label {words[1]} is too large.")
        paths.append(words[0])
        labels.append(int(words[1]))
        lines.append(number)
    images = FileImages(root, paths)
    if not os.path.exists(images.name(0)):
        # The usual cause is a wrong root: better said now than from a loader's thread.
        raise UserError(
            f"{path}, line {lines[0]}: there is no file {images.name(0)}. Paths are relative to "
            f"data.root, which is {root!r}."
        )
    return Split(images, np.array(labels)), lines


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Returns (line number, stripped text) of the lines of a text file that are not blank.

    Raises UserError where there is none.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"Cannot read the text file {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8: {error}. Save it as UTF-8.") from error
    lines = enumerate(text.split("\n"), 1)
    if not (found := [(number, line.strip()) for number, line in lines if line.strip()]):
        raise UserError(f"The text file {path} is empty.")
    return found


# --- CIFAR-100's binary archive ---

CIFAR_MEMBERS = ("train.bin", "test.bin", "fine_label_names.txt")
_CIFAR_HELP = (
    "Expected cifar-100-binary.tar.gz (from https://www.cs.toronto.edu/~kriz/cifar.html, the "
    '"binary version") or the directory cifar-100-binary that it unpacks to.'
)


def cifar_files(root: Path) -> dict[str, bytes]:
    """Returns the three files of the archive at `root`: the archive itself, or unpacked."""
    places = (root, root / "cifar-100-binary")
    for folder in places:
        if all((folder / member).is_file() for member in CIFAR_MEMBERS):
            return {member: (folder / member).read_bytes() for member in CIFAR_MEMBERS}
    for archive in (root, root / "cifar-100-binary.tar.gz"):
        if archive.is_file():
            return _unpack_cifar(archive)
    raise UserError(f"No CIFAR-100 at {root} (data.root). {_CIFAR_HELP}")


def _unpack_cifar(archive: Path) -> dict[str, bytes]:
    found = {}
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                name = os.path.basename(member.name)
                if name in CIFAR_MEMBERS and (content := tar.extractfile(member)):
                    found[name] = content.read()
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise UserError(f"Cannot unpack {archive}: {error}. {_CIFAR_HELP}") from error
    missing = [member for member in CIFAR_MEMBERS if member not in found]
    if missing:
        raise UserError(f"{archive} lacks {', '.join(missing)}. {_CIFAR_HELP}")
    return found


def cifar_records(
    content: bytes, name: str
) -> tuple[UInt8[np.ndarray, "n 32 32 3"], Int[np.ndarray, "n"]]:
    """Parses records of coarse label, fine label, 3 x 32 x 32 pixels. Returns pixels and fine."""
    size = 2 + 3 * 32 * 32
    if not content or len(content) % size:
        raise UserError(
            f"{name} of CIFAR-100 has {len(content):,} bytes, expected a multiple of {size:,}. "
            f"The file is damaged: fetch it again. {_CIFAR_HELP}"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, size)
    pixels = records[:, 2:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(pixels), records[:, 1].astype(np.int32)
