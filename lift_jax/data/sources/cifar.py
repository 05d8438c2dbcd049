"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009), their official binary archives and their long tails.

The long-tailed subsets hold exactly the images that the literature uses, whatever the seed: class c
keeps int(n * (1 / IR)^(c / (C - 1))) images, which NumPy's legacy generator draws.
"""

import os
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from lift_jax.data.sources import paths
from lift_jax.data.sources.download import Archive, fetch
from lift_jax.data.splits import long_tail_count
from lift_jax.data.types import ArrayImages, Dataset, Split
from lift_jax.errors import UserError
from lift_jax.settings.groups.data import DataSettings

SIDE = 32
PAGE = "https://www.cs.toronto.edu/~kriz"


@dataclass(frozen=True)
class Kind:
    """One of the two archives. The last of a record's `label_bytes` is the class."""

    title: str
    folder: str
    train: tuple[str, ...]
    test: str
    names: str
    label_bytes: int
    archive: Archive

    @property
    def members(self) -> tuple[str, ...]:
        return (*self.train, self.test, self.names)

    @property
    def help(self) -> str:
        return (
            f"Expected {self.archive.name} (from {PAGE}/cifar.html, the "
            f'"binary version"), the directory {self.folder} that it unpacks to, or data.root '
            "empty to download it."
        )


CIFAR10 = Kind(
    title="CIFAR-10",
    folder="cifar-10-batches-bin",
    train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    test="test_batch.bin",
    names="batches.meta.txt",
    label_bytes=1,
    archive=Archive(
        f"{PAGE}/cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530", 170_052_171
    ),
)
CIFAR100 = Kind(
    title="CIFAR-100",
    folder="cifar-100-binary",
    train=("train.bin",),
    test="test.bin",
    names="fine_label_names.txt",
    label_bytes=2,
    archive=Archive(
        f"{PAGE}/cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8", 168_513_733
    ),
)


def cifar10(settings: DataSettings, seed: int) -> Dataset:
    """Reads CIFAR-10: 50,000 training images (5,000 a class), 10,000 test images, 32 x 32.

    `data.root` names cifar-10-binary.tar.gz, the directory that it unpacks to, or a directory that
    holds either. If it is empty, the archive is downloaded once. IR 100, 50 and 10 leave 12,406,
    13,996 and 20,431 training images.
    """
    return _load(CIFAR10, settings)


def cifar100(settings: DataSettings, seed: int) -> Dataset:
    """Reads CIFAR-100: 50,000 training images (500 a class), 10,000 test images, 32 x 32.

    `data.root` works as for `cifar10`. IR 100, 50 and 10 leave 10,847, 12,608 and 19,573 training
    images, as in the papers. The counts of IR 100 divide the classes into many, medium and few
    shot, as in LIFT, so that the groups hold the same classes at every IR.
    """
    return _load(CIFAR100, settings)


def _load(kind: Kind, settings: DataSettings) -> Dataset:
    root = paths.given(settings.root, "data.root") if settings.root else fetch(kind.archive)
    files = _files(kind, root)
    parts = [_records(kind, files[name], name) for name in kind.train]
    pixels, labels = (np.concatenate(each) for each in zip(*parts, strict=True))
    test = _records(kind, files[kind.test], kind.test)
    names = tuple(files[kind.names].decode("ascii", "replace").split())
    highest = max(labels.max(), test[1].max())
    if highest >= len(names):
        raise UserError(
            f"{kind.title} at {root} has the label {highest} but {len(names)} class names in "
            f"{kind.names}. The files are damaged: unpack the archive again."
        )
    rows = np.arange(len(labels))
    if settings.imbalance != 1:
        rows = subset(labels, settings.imbalance)
    grouped = None
    if kind is CIFAR100:
        grouped = np.bincount(labels[subset(labels, 100.0)], minlength=len(names))
    origin = f"the training images of {kind.title}"
    return Dataset(
        Split(ArrayImages(pixels[rows], origin, rows), labels[rows]),
        Split(
            ArrayImages(test[0], f"{kind.test} of {kind.title}", np.arange(len(test[1]))), test[1]
        ),
        names,
        grouped_by=grouped,
    )


def subset(labels: Int[np.ndarray, "n"], imbalance: float) -> Int[np.ndarray, "m"]:
    """Returns the rows of the long-tailed subset that the literature uses, class by class.

    Counts are truncated to integers. NumPy's legacy generator, seeded with 0, shuffles the rows of
    one class after another, as in the published code.
    """
    classes = np.unique(labels)
    rng = np.random.RandomState(0)
    kept = []
    for c, label in enumerate(classes):
        rows = np.flatnonzero(labels == label)
        rng.shuffle(rows)
        kept.append(
            rows[: int(long_tail_count(len(labels) / len(classes), imbalance, c, len(classes)))]
        )
    return np.concatenate(kept)


def _files(kind: Kind, root: Path) -> dict[str, bytes]:
    """Reads the files of the archive at `root`, which is packed or unpacked."""
    for folder in (root, root / kind.folder):
        if all((folder / member).is_file() for member in kind.members):
            return {member: (folder / member).read_bytes() for member in kind.members}
    for archive in (root, root / kind.archive.name):
        if archive.is_file():
            return _unpack(kind, archive)
    raise UserError(f"No {kind.title} at {root} (data.root). {kind.help}")


def _unpack(kind: Kind, archive: Path) -> dict[str, bytes]:
    found = {}
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                name = os.path.basename(member.name)
                if name in kind.members and (content := tar.extractfile(member)):
                    found[name] = content.read()
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise UserError(f"Cannot unpack {archive}: {error}. {kind.help}") from error
    missing = [member for member in kind.members if member not in found]
    if missing:
        raise UserError(f"{archive} lacks {', '.join(missing)}. {kind.help}")
    return found


def _records(
    kind: Kind, content: bytes, name: str
) -> tuple[UInt8[np.ndarray, "n 32 32 3"], Int[np.ndarray, "n"]]:
    """Parses records of labels and 3 x 32 x 32 pixels; returns pixels and classes."""
    size = kind.label_bytes + 3 * SIDE * SIDE
    if not content or len(content) % size:
        raise UserError(
            f"{name} of {kind.title} has {len(content):,} bytes, expected a multiple of {size:,}. "
            f"The file is damaged: fetch it again. {kind.help}"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, size)
    pixels = records[:, kind.label_bytes :].reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(pixels), records[:, kind.label_bytes - 1].astype(np.int32)
