"""Images sorted into a folder for each class, as copies or links.

Nothing is overwritten, and nothing is written outside of the folder. The same images sorted again,
as after a kill, give the same files: a file that is there with the same content is that image.
"""

import filecmp
import itertools
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from lift_jax.errors import UserError
from lift_jax.runs.answers.answering import UNKNOWN, Prediction
from lift_jax.storage import atomic, disk
from lift_jax.storage.names import folder_names


class Sorter:
    """The folder into which images are sorted.

    Args:
        into: the folder; it is made.
        class_names: a folder each, where an image needs it.
        unknown: True to sort unknown images into a folder "unknown".
        link: True for symbolic links to the images in place of copies.

    Raises UserError if the folder cannot be made or written.
    """

    def __init__(self, into: Path, class_names: Sequence[str], unknown: bool, link: bool):
        self._into = disk.make_folder(into, "--sort-into")
        names = folder_names(class_names, [UNKNOWN] * unknown)
        self._folders = dict(zip(class_names, names, strict=True))
        self._link = link
        self._given: set[Path] = set()  # where this one has put images
        self._number: dict[Path, int] = {}  # the next number, of a place that is taken
        self._clean: dict[Path, bool] = {}  # True where no killed process has left a file

    def sort(self, image: Path, one: Prediction) -> Path | None:
        """Copies or links an image into the folder of its answer; returns where it lies then.

        Returns None for an image that could not be read. Raises UserError for a class folder that
        leads elsewhere, and if nothing can be written.
        """
        if one.error:
            return None
        name = UNKNOWN if one.unknown else self._folders[one.labels[0]]
        folder = self._into / name
        with disk.disk_errors(folder):
            folder.mkdir(exist_ok=True)
            if folder.resolve().parent != self._into.resolve():
                raise UserError(
                    f"{folder} leads out of {self._into} (--sort-into), to {folder.resolve()}. "
                    "Remove that link, or give another folder."
                )
            if folder not in self._clean:
                self._clean[folder] = not any(folder.glob(".*.tmp"))
            target = self._place(folder, image)
            if not os.path.lexists(target):
                self._put(image, target)
        return target

    def _place(self, folder: Path, image: Path) -> Path:
        """Returns where an image goes in a folder: under its name, or that with a number."""
        first = target = folder / image.name
        for number in itertools.count(self._number.get(first, 1)):
            if number > 1:
                target = folder / f"{_cut(image.stem)}_{number}{image.suffix}"
            if self._is_free(target, image):
                self._number[first] = number + 1
                break
        self._given.add(target)
        return target

    def _is_free(self, target: Path, image: Path) -> bool:
        """Returns True if an image may have a place: it is empty, or holds the image already."""
        if target in self._given:
            return False
        if not os.path.lexists(target):
            return True
        if self._link or target.is_symlink():
            return self._link and target.is_symlink() and os.readlink(target) == _address(image)
        return target.is_file() and filecmp.cmp(image, target, shallow=False)

    def _put(self, image: Path, target: Path) -> None:
        if self._link:
            os.symlink(_address(image), target)
            return
        with atomic.replacement(target, self._clean[target.parent]) as temporary:
            shutil.copyfile(image, temporary)


def check_apart(into: Path, given: Sequence[str]) -> None:
    """Raises UserError if a folder of images holds the one to sort into, whose copies it would
    name the next time."""
    for path in given:
        if os.path.isdir(path) and into.resolve().is_relative_to(Path(path).resolve()):
            raise UserError(
                f"{into} (--sort-into) is in {path}, the folder of the images, so sorted images "
                "would be sorted again. Give a folder outside it."
            )


def _address(image: Path) -> str:
    return os.path.abspath(image)


def _cut(stem: str) -> str:
    """Returns the stem of a name with room for a number."""
    return stem.encode(errors="surrogateescape")[:200].decode(errors="ignore")
