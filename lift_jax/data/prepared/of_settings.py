"""The preparation of the training split that settings describe, and what to do with it then."""

import os
from pathlib import Path

from rich.console import Console
from rich.filesize import decimal

from lift_jax.data import datasets
from lift_jax.data.prepared import prepare, shards
from lift_jax.data.types import EncodedImages
from lift_jax.errors import UserError
from lift_jax.settings.groups.data import DataSettings


def prepare_split(data: DataSettings, seed: int, size: int, console: Console) -> None:
    """Writes the training split in the form that is read fastest, and prints how to use it.

    `size` is the short side of the small images in pixels. Raises UserError if there is nothing to
    prepare, or nothing that is prepared would be used.
    """
    if data.prepared == "none":
        raise UserError("data.prepared is 'none', so nothing prepared would be used: leave it out.")
    split = datasets.load(data, seed).train
    if isinstance(split.images, shards.PreparedImages):
        folder = Path(split.images.files[0]).parent
        shards.check(folder)
        console.print(f"{folder} is complete and its checksums are right: training uses it.")
        return
    if not isinstance(split.images, EncodedImages):
        raise UserError(f"data.name={data.name} has nothing to prepare: it is in memory.")
    folder = shards.folder_of(split.images, data.prepared)
    console.print(f"{len(split):,} images to {folder}, short side at most {size} pixels.")
    prepare.prepare(split, folder, size=size, workers=os.cpu_count() or 1, console=console)
    total = sum(path.stat().st_size for path in folder.iterdir())
    flag = f" Give --config.data.prepared={data.prepared} for it." if data.prepared else ""
    console.print(f"Prepared, {decimal(total)}. Training with this config uses it.{flag}")
