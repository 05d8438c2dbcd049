"""A look at a data set before training: `python -m lift_jax.data --config=configs/folder.py ...`.

Prints its splits, classes, sizes and what is wrong with it, and writes to --workdir: classes.csv
and classes.png (images by class), findings.csv (images that cannot be read or are there twice) and
views.png (what the model is shown while training and testing).

With --prepare it writes the training split as small JPEGs in a few large files instead, which
training then reads in place of the images. Run it again to continue after a kill.
"""

import os
from pathlib import Path

from absl import app, flags
from ml_collections import ConfigDict
from rich.console import Console

from lift_jax import command, config_flag, folder, look
from lift_jax.data import catalog, prepare
from lift_jax.data.images import EncodedImages
from lift_jax.errors import UserError, fail

WORKDIR = flags.DEFINE_string("workdir", "runs/data", "The folder for what is written.")
PREPARE = flags.DEFINE_bool("prepare", False, "Write the training split as small JPEGs, and stop.")
SIZE = flags.DEFINE_integer("prepare_size", 0, "Their short side; 0: 8/7 of the resolution.")
READ = flags.DEFINE_bool("read", True, "Read every image; --noread looks at the lists alone.")


def prepare_split(config: ConfigDict, size: int, console: Console) -> None:
    """Writes the training split in the form that is read fastest, and says how to use it."""
    if config.data.prepared == "none":
        raise UserError("data.prepared is 'none', so nothing prepared would be used: leave it out.")
    split = catalog.load(config.data, config.seed).train
    if isinstance(split.images, prepare.PreparedImages):
        folder = Path(split.images.files[0]).parent
        prepare.check(folder)
        console.print(f"{folder} is complete and its checksums are right: training uses it.")
        return
    if not isinstance(split.images, EncodedImages):
        raise UserError(f"data.name={config.data.name} has nothing to prepare: it is in memory.")
    size = size or prepare.default_size(look.preview_resolution(config, console))
    target = config.data.prepared
    target_folder = prepare.folder_of(split.images, target)
    console.print(f"{len(split):,} images to {target_folder}, short side at most {size} pixels.")
    prepare.prepare(split, target_folder, size=size, workers=os.cpu_count() or 1, console=console)
    total = sum(path.stat().st_size for path in target_folder.iterdir())
    flag = f" Give --config.data.prepared={target} for it." if target else ""
    console.print(f"Prepared, {total / 1e9:.2f} GB. Training with this config uses it.{flag}")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise SystemExit(fail(f"unexpected arguments: {' '.join(argv[1:])}"))
    with command.told():
        config = config_flag.chosen_config(
            "Give a config: python -m lift_jax.data --config=configs/folder.py "
            "--config.data.root=photos"
        )
        if PREPARE.value:
            prepare_split(config, SIZE.value, Console())
            return
        config.data.prepared = "none"  # the images as they are
        look.look(config, folder.open_workdir(WORKDIR.value), READ.value, Console())


if __name__ == "__main__":
    app.run(main, flags_parser=config_flag.parse_flags)
