"""The finished runs of a sweep: what is left to do, and training that another run can take over."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from lift_jax.data.batches.order import steps_per_epoch
from lift_jax.errors import UserError
from lift_jax.runs import log
from lift_jax.runs.kept import other_split
from lift_jax.runs.kept.result_files import CONFIG, METRICS, changed_files
from lift_jax.settings.parse import same, to_dict
from lift_jax.storage import atomic, disk
from lift_jax.storage.reading import RUN_BYTES, read_json
from lift_jax.training import checkpoint

Runs = Mapping[str, Mapping[Path, ConfigDict]]  # cell -> folder -> config
Results = Mapping[str, Mapping[Path, dict[str, Any] | None]]  # the same -> metrics.json
# Settings that change neither training nor results, so that a finished run stays finished.
# test.split has a file of its own.
IDLE = (
    "checkpoint.every_steps", "checkpoint.every_minutes", "checkpoint.keep", "mesh", "train.accum",
    "train.remat", "data.workers", "data.features_gb", "test.split",
)  # fmt: skip
# Settings that change how a run is tested, and not its training.
TESTED = ("test.tte", "test.crops", "test.expand", "test.views", "test.adjust")


def finished(folder: Path, config: ConfigDict, mode: str = "train") -> dict | None:
    """Returns metrics.json of a run of this config that has nothing left to do, else None.

    It is fast because it opens neither data nor backbone. If their paths have changed the run is
    left to `train_and_test`, which compares their content.
    """
    try:
        about = read_json(folder / CONFIG, most_bytes=RUN_BYTES)
        found = read_json(folder / METRICS, most_bytes=RUN_BYTES)
        images = sum(about.pop("data_summary")["counts"])
        steps = steps_per_epoch(images, config.train.batch) * config.train.epochs
        trained = found["steps"] == steps and found["test"] is not None
        whole = trained if mode == "train" else found["zero_shot"] is not None
    except (UserError, OSError, KeyError, TypeError, AttributeError):
        return None  # not begun, not tested yet, or a file was changed by hand
    whole = whole and not changed_files(folder)
    if not whole or not same(about, to_dict(config), IDLE):
        return None
    return found | other if (other := of_other_split(folder, config, found)) is not None else None


def results_of(runs: Runs, mode: str = "train") -> Results:
    """Returns what `finished` does of each run. It reads all files of results, to check them."""
    return {
        name: {folder: finished(folder, config, mode) for folder, config in cell.items()}
        for name, cell in runs.items()
    }


def of_other_split(folder: Path, config: ConfigDict, found: Mapping[str, Any]) -> dict | None:
    """Returns the result on the other split by its name, {} if none is asked for.

    Returns None if one is asked for that is not there.
    """
    split = config.test.get("split", "test")
    if split == "test":
        return {}
    kept = other_split.read(folder, split, found["steps"], config.test.interpolation)
    return None if kept is None else {split: kept["test"]}


def borrow(folder: Path, config: ConfigDict, runs: Runs) -> None:
    """Copies the training of a finished run that differs only in how it is tested, if there is one.

    The run in `folder` then only has to be tested.
    """
    if (folder / checkpoint.FOLDER).exists():
        return
    for other, c in ((other, c) for cell in runs.values() for other, c in cell.items()):
        trained = (other / checkpoint.FOLDER).exists() and finished(other, c)
        if trained and same(to_dict(c), to_dict(config), TESTED):
            atomic.write_bytes(folder / log.LOG, (other / log.LOG).read_bytes())
            with atomic.new_folder(folder / checkpoint.FOLDER) as copy:
                shutil.copytree(
                    other / checkpoint.FOLDER, copy, copy_function=_copy, dirs_exist_ok=True
                )
            return


def _copy(source: str, target: str) -> None:
    """Copies a file. Raises DiskError; shutil.copytree alone would hide the cause in a list."""
    with disk.disk_errors(target):
        shutil.copyfile(source, target)
