"""Averages the tuned weights of several runs: an adapter soup (Wortsman et al., ICML 2022)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

from lift_jax.data import datasets, loader
from lift_jax.data.types import Dataset
from lift_jax.errors import UserError
from lift_jax.evaluation import metrics
from lift_jax.runs import export, folder, log, tables
from lift_jax.runs.train_and_test import train_and_test
from lift_jax.settings.parse import changes, parse
from lift_jax.settings.schema import DataSettings
from lift_jax.storage import atomic
from lift_jax.training import checkpoint
from lift_jax.training.optimizer import sgd
from lift_jax.training.state import State

# What the runs may differ in; all but the first two change nothing that is learned.
FREE = (
    "seed", "train.lr", "checkpoint", "mesh", "train.accum", "train.remat", "data.workers",
    "data.features_gb",
)  # fmt: skip
RESULTS = {
    "test": "", "test_adjusted": ", adjusted", "test_tte": ", with TTE",
    "test_tte_adjusted": ", with TTE, adjusted",
}  # fmt: skip


def soup(runs: Sequence[str | Path], workdir: str | Path) -> dict[str, Any]:
    """Writes the mean of the runs to `workdir` and tests it; returns what its metrics.json holds.

    Raises UserError for fewer than two runs, for one that is not finished or not of the same
    config, classes, images and backbone as the first, and for a `workdir` with a run in it.
    """
    paths = [Path(run).expanduser() for run in runs]
    if len({path.resolve() for path in paths}) < max(2, len(paths)):
        raise UserError("A soup is made of two runs or more, each of them once.")
    workdir = folder.open_workdir(workdir)
    if (workdir / "checkpoints").exists():
        raise UserError(f"{workdir} holds a run (--workdir). Give another folder for the soup.")
    members = [folder.load(path) for path in paths]
    abouts = [content(member) for member in members]
    for path, about in zip(paths, abouts, strict=True):
        check_alike(paths[0], abouts[0], path, about)

    config = ConfigDict(members[0].config)
    config.label = f"{config.label}, soup of {len(members)}"
    config.checkpoint.best = False  # the mean itself has not been validated
    settings = parse(config)
    check_images(settings.data, [member.config["seed"] for member in members])
    leaves = [export.newest(path) for path in paths]
    mean = {
        key: jnp.asarray(np.mean([own[key] for own in leaves], axis=0, dtype=np.float64), "float32")
        for key in leaves[0]
    }
    optimizer = sgd(lambda step: 0.0, settings.train.momentum, settings.train.weight_decay)
    state = State(jnp.int32(members[0].metrics["steps"]), mean, optimizer.init(mean))
    with checkpoint.open_manager(workdir, settings.checkpoint.keep) as manager:
        summary = abouts[0]["data_summary"]
        checkpoint.save(manager, state, {**settings.written, "data_summary": summary})
        checkpoint.wait(manager)
    (workdir / log.LOG).touch()  # it did not train, but what it is made of did
    found = train_and_test(settings, workdir, "evaluate")

    rows = {str(path): member.metrics for path, member in zip(paths, members, strict=True)}
    rows["soup"] = found
    table = {
        name + ending: row.get(key) for key, ending in RESULTS.items() for name, row in rows.items()
    }
    atomic.write_csv(
        workdir / "soup.csv",
        ["run", *metrics.NAMES],
        ([name, *(row[key] for key in metrics.NAMES)] for name, row in table.items() if row),
    )
    Console().print(tables.results_table(table))
    return found


def content(run: folder.Run) -> dict[str, Any]:
    """What the newest checkpoint of a run belongs to. Raises UserError if it is not finished."""
    train_config = run.config["train"]
    per_epoch = loader.steps_per_epoch(int(run.train_counts.sum()), train_config["batch"])
    total = per_epoch * train_config["epochs"]
    with checkpoint.open_manager(run.workdir, run.config["checkpoint"]["keep"]) as manager:
        about = checkpoint.describe(manager)
    if about is None or run.metrics["steps"] != total or run.metrics["test"] is None:
        raise UserError(
            f"{run.workdir} is not finished: {run.metrics['steps']} of {total} steps are done and "
            "tested. Run it to its end first."
        )
    return {**run.config, "data_summary": about["data_summary"]}


def check_alike(first: Path, wanted: dict[str, Any], path: Path, about: dict[str, Any]) -> None:
    """Raises UserError if two runs differ in more than `FREE`, by key."""
    lines = [
        line if len(line) < 200 else f"{line.partition(':')[0]}: others"  # classes are many
        for line in changes(wanted, about, FREE)
    ]
    if lines:
        raise UserError(
            f"{path} differs from {first} in more than seed and train.lr:\n  " + "\n  ".join(lines)
        )


def check_images(data: DataSettings, seeds: Sequence[int]) -> None:
    """Raises UserError if the seeds draw other images from the data, for a soup could cheat."""
    first, *others = (images(datasets.load(data, seed)) for seed in dict.fromkeys(seeds))
    if any(other != first for other in others):
        raise UserError(
            f"The seeds of the runs draw other test images from data.name={data.name!r}: "
            "the soup would be tested on images that some of its runs have learned. Give runs of "
            "one seed with other learning rates, or data with a test set of its own."
        )


def images(data: Dataset) -> list[list[str]]:
    splits = (data.train, data.val, data.test)
    return [[split.images.name(i) for i in range(len(split))] for split in splits if split]
