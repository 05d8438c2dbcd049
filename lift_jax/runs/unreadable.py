"""Images that were passed over (data.on_bad_image=skip), listed in the run folder."""

import csv
from collections.abc import Collection, Mapping
from pathlib import Path

from rich.console import Console

from lift_jax.data.types import Dataset
from lift_jax.storage import atomic

HEADER = ("split", "path", "cause")


def record_unreadable(
    data: Dataset, workdir: Path, process: int, console: Console, anew: Collection[str] = ()
) -> None:
    """Adds what the splits have noted to bad_images.csv, and says how many there are now.

    What is listed already stays, for a run that continues sees part of its images, but for the
    splits in `anew`, which were read from the start. Processes beside the first have a list of
    their own, bad_images_PROCESS.csv.
    """
    path = workdir / f"bad_images{f'_{process}' * (process > 0)}.csv"
    before = _listed(path)
    found = {place: cause for place, cause in before.items() if place[0] not in anew}
    for name, split in (("train", data.train), ("val", data.val), ("test", data.test)):
        if split is not None:
            found |= {(name, split.images.name(i)): split.bad[i] for i in sorted(split.bad)}
    if found == before:
        return
    atomic.write_csv(path, HEADER, [(*place, cause) for place, cause in found.items()])
    if found:
        console.print(
            f"Warning: {len(found)} images could not be read and were passed over "
            f"(data.on_bad_image=skip); they are listed in {path}.",
            markup=False,
        )


def _listed(path: Path) -> Mapping[tuple[str, str], str]:
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return {(row["split"], row["path"]): row["cause"] for row in csv.DictReader(file)}
    except (OSError, KeyError):
        return {}  # none yet, or a file that somebody changed
