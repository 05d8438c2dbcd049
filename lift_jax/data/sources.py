"""Splits and the places that images come from: arrays in memory, folders, list files, archives.

Images of files are decoded when they are asked for. Every way in which a file can be wrong ends in
a `UserError` that names the file, also from a loader's thread or worker process.
"""

import os
import re
import tarfile
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from lift_jax.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # a file's name may lie about these
MAX_PIXELS = 89_478_485  # where Pillow starts to suspect a decompression bomb

# Pillow reads EXIF for the resolution, which nobody uses here, and warns where it is corrupt, as in
# some images of ImageNet. Too large an image is an error below, so its warning would be a second
# message. Set once: catching warnings around each image is not safe in threads.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


# --- what a data set is ---


class Images(Protocol):
    """Random access to images; picklable, so that worker processes can hold it."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> Image.Image | UInt8[np.ndarray, "h w 3"]:
        """Returns image i in RGB. Raises UserError where its file cannot be read."""
        ...

    def name(self, i: int) -> str:
        """Returns the path of image i, or what stands for it in messages."""
        ...


@dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels."""

    images: Images
    labels: Int[np.ndarray, "n"]

    def __post_init__(self):
        object.__setattr__(self, "labels", np.asarray(self.labels, np.int32))
        if len(self.images) != len(self.labels):
            raise ValueError(f"{len(self.images)} images but {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training split, a test split and what their labels mean.

    `grouped_by` are the counts [c] that decide many, medium and few shot; None for the data set's
    own.
    """

    train: Split
    test: Split
    class_names: tuple[str, ...]
    grouped_by: Int[np.ndarray, "c"] | None = None

    @property
    def counts(self) -> Int[np.ndarray, "c"]:
        """Returns n_c, the training images of each class."""
        return np.bincount(self.train.labels, minlength=len(self.class_names)).astype(np.int64)

    @property
    def group_counts(self) -> Int[np.ndarray, "c"]:
        """Returns the counts that decide many, medium and few shot."""
        return self.counts if self.grouped_by is None else self.grouped_by


@dataclass(frozen=True, eq=False)
class ArrayImages:
    """Images of one size held in memory. `rows` are their places in the set they came from."""

    pixels: UInt8[np.ndarray, "n h w 3"]
    origin: str
    rows: Int[np.ndarray, "n"]

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, i: int) -> UInt8[np.ndarray, "h w 3"]:
        return self.pixels[i]

    def name(self, i: int) -> str:
        return f"{self.origin}, image {self.rows[i]}"


@dataclass(frozen=True, eq=False)
class FileImages:
    """Image files below `root`, decoded when asked for."""

    root: str
    paths: Sequence[str] = field(repr=False)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> Image.Image:
        return read_image(self.name(i))

    def name(self, i: int) -> str:
        return os.path.join(self.root, self.paths[i])


# --- reading an image ---


def read_image(path: str | os.PathLike) -> Image.Image:
    """Returns the image of a file in RGB, as stored: an EXIF orientation is not applied.

    Raises UserError, which names the file and the cause, for whatever is wrong with the file.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"it has {image.width} x {image.height} pixels, too many to open")
            return to_rgb(image)
    # Decoders raise nearly every kind of exception on damaged bytes (OSError, ValueError,
    # SyntaxError, struct.error, EOFError, ...), and the remedy is the same for all.
    except Exception as error:
        cause = "there is no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise UserError(
            f"Cannot read the image {os.fspath(path)}: {cause or type(error).__name__}. "
            "Replace the file, or take it out of the data set (delete it, or its line in the list)."
        ) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts an image of any mode to RGB.

    Transparent pixels are laid over white; 16-bit grey is scaled to 8 bits. Raises ValueError where
    the range of brightness is unknown (floating point, 32-bit integers above 65,535).
    """
    if image.mode == "RGB" and not image.has_transparency_data:
        image.load()
        return image
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range, not 8-bit")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65_535:
            raise ValueError(f"its pixels run from {values.min()} to {values.max()}, not 16-bit")
        return Image.fromarray(((values * 255 + 32_767) // 65_535).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


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
