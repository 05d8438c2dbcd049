"""The list of images that a run skipped because they cannot be read (data.on_bad_image=skip)."""

from collections.abc import Collection, Mapping
from pathlib import Path

from rich.console import Console

from lift_jax.data.types import Dataset
from lift_jax.errors import UserError
from lift_jax.storage.formats.csv_files import read_csv, write_csv

HEADER = ("split", "path", "cause")


def record_unreadable(
    data: Dataset, workdir: Path, process: int, console: Console, anew: Collection[str] = ()
) -> None:
    """Adds the unreadable images of the splits to bad_images.csv, and prints how many it lists.

    Entries from before are kept, because a run that continues reads only part of its images. The
    splits in `anew` were read from the start, so their old entries are dropped. Processes after the
    first have a list of their own, bad_images_PROCESS.csv.
    """
    path = workdir / f"bad_images{f'_{process}' * (process > 0)}.csv"
    before = _read_list(path)
    causes = {image: cause for image, cause in before.items() if image[0] not in anew}
    for name, split in (("train", data.train), ("val", data.val), ("test", data.test)):
        if split is not None and split.unreadable:
            images = map(split.images.name, range(len(split)))
            causes |= {(name, i): split.unreadable[i] for i in images if i in split.unreadable}
    if causes == before:
        return
    write_csv(path, HEADER, [(*image, cause) for image, cause in causes.items()])
    if causes:
        console.print(
            f"Warning: images that could not be read and were skipped: {len(causes):,} "
            f"(data.on_bad_image=skip), listed in {path}.",
        )


def _read_list(path: Path) -> Mapping[tuple[str, str], str]:
    """Returns the cause by (split, path of the image); {} if there is no valid list yet."""
    try:
        header, rows = read_csv(path)
    except UserError:
        return {}
    if tuple(header) != HEADER:
        return {}
    return {(split, name): cause for split, name, cause in rows}
