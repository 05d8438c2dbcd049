"""An adapter soup: the mean of the tuned weights of several runs (Wortsman et al., ICML 2022)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from lift_jax.data import datasets
from lift_jax.data.batches.order import steps_per_epoch
from lift_jax.data.types import Dataset
from lift_jax.errors import UserError
from lift_jax.evaluation import metrics, tables
from lift_jax.models.tree import Tree
from lift_jax.output.terminal import Terminal
from lift_jax.runs import finished_run, folder, log
from lift_jax.runs.kept import result_files
from lift_jax.runs.train_and_test import train_and_test
from lift_jax.runs.weights import export
from lift_jax.settings.groups.data import DataSettings
from lift_jax.settings.parse import changes, parse
from lift_jax.storage import atomic
from lift_jax.storage.formats.csv_files import write_csv
from lift_jax.storage.names import expand_user
from lift_jax.training import checkpoint
from lift_jax.training import optimizer as optimizers
from lift_jax.training.state import create_state

# Settings that may differ between the runs. All but the first two change nothing that is learned.
FREE = (
    "seed", "train.lr", "checkpoint", "mesh", "train.accum", "train.remat", "data.workers",
    "data.features_gb",
)  # fmt: skip
# The suffix of a run's name in the table, for each result.
ROW_ENDINGS = {
    "test": "", "test_adjusted": ", adjusted", "test_tte": ", with TTE",
    "test_tte_adjusted": ", with TTE, adjusted",
}  # fmt: skip


def soup(runs: Sequence[str | Path], workdir: str | Path) -> dict[str, Any]:
    """Writes the mean of the runs to a new run folder and tests it.

    Writes soup.csv and prints a table, with the results of the runs and of the soup. Returns the
    contents of the soup's metrics.json.

    Raises UserError for fewer than two runs, for a run that is not finished or differs from the
    first in config, classes, images or backbone, and if `workdir` holds another run.
    """
    paths = [expand_user(run) for run in runs]
    if len({path.resolve() for path in paths}) < max(2, len(paths)):
        raise UserError("A soup needs two runs or more, and each of them once.")
    workdir = folder.open_workdir(workdir)
    members = [finished_run.load(path) for path in paths]
    abouts = [describe_finished(member) for member in members]
    for path, about in zip(paths, abouts, strict=True):
        check_alike(paths[0], abouts[0], path, about)

    config = ConfigDict(members[0].config)
    config.label = f"{config.label}, soup of {len(members)}"
    config.checkpoint.best = False  # the mean itself has not been validated
    settings = parse(config)
    check_images(settings.data, [member.config["seed"] for member in members])
    mean = mean_leaves([export.read_tuned(path) for path in paths])
    optimizer = optimizers.of_run(settings, lambda step: 0.0, mean)
    state = create_state(mean, optimizer, averages=settings.train.ema > 0)
    state = replace(state, step=jnp.int32(members[0].metrics["steps"]))
    keep, summary = settings.checkpoint.keep, abouts[0]["data_summary"]
    with folder.writing(workdir):
        done = is_begun(workdir, config.label, mean)
        with checkpoint.open_manager(workdir, keep) as manager:
            if not done:
                checkpoint.save(manager, state, {**settings.written, "data_summary": summary})
                checkpoint.wait(manager)
        atomic.write_bytes(workdir / log.LOG, b"")  # so that it is tested as a trained run
        results = train_and_test(settings, workdir, "evaluate")
    rows = {str(path): member.metrics for path, member in zip(paths, members, strict=True)}
    write_results(workdir, rows | {"soup": results})
    return results


def is_begun(workdir: Path, label: str, mean: Tree) -> bool:
    """Returns True if a folder holds the checkpoint of this soup already.

    A kill or a full disk before the test leaves it so. Raises UserError if the folder holds another
    run.
    """
    if not checkpoint.best_first(workdir):
        if not (workdir / result_files.METRICS).exists():
            return False
    else:
        leaves, about = export.read_checkpoint(workdir)
        same = about.get("label") == label and leaves.keys() == mean.keys()
        if same and all(np.array_equal(leaves[path], mean[path]) for path in mean):
            return True
    raise UserError(f"{workdir} holds another run (--workdir). Give another folder for the soup.")


def mean_leaves(members: Sequence[Mapping[str, np.ndarray]]) -> Tree:
    """Returns the mean of the tuned leaves of several runs, summed in float64, as float32."""

    def mean(path: str) -> jax.Array:
        leaves = [member[path] for member in members]
        return jnp.asarray(np.mean(leaves, axis=0, dtype=np.float64), "float32")

    return {path: mean(path) for path in members[0]}


def write_results(workdir: Path, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes soup.csv and prints the table.

    Args:
        workdir: the run folder of the soup.
        rows: contents of metrics.json, by the name of a run.
    """
    table = {
        name + ending: row.get(key)
        for key, ending in ROW_ENDINGS.items()
        for name, row in rows.items()
    }
    write_csv(
        workdir / "soup.csv",
        ["run", *metrics.NAMES],
        ([name, *(row[key] for key in metrics.NAMES)] for name, row in table.items() if row),
    )
    Terminal().print(tables.results_table(table))


def describe_finished(run: finished_run.Run) -> dict[str, Any]:
    """Returns the config of a run with its data summary: classes, images and backbone.

    Raises UserError if the run is not finished, or its config.json is broken.
    """
    try:
        settings = parse(run.config)
    except UserError as e:
        raise UserError(f"{run.workdir / result_files.CONFIG}: {e}") from e
    per_epoch = steps_per_epoch(int(run.train_counts.sum()), settings.train.batch)
    total = per_epoch * settings.train.epochs
    with checkpoint.open_manager(run.workdir, settings.checkpoint.keep) as manager:
        about = checkpoint.read_about(manager)
    if about is None or run.metrics["steps"] != total or run.metrics["test"] is None:
        raise UserError(
            f"{run.workdir} is not finished: {run.metrics['steps']} of {total} steps are done and "
            "tested. Run it to its end first."
        )
    return {**run.config, "data_summary": about["data_summary"]}


def check_alike(first: Path, wanted: dict[str, Any], path: Path, about: dict[str, Any]) -> None:
    """Raises UserError, which lists the keys, if two runs differ in more than `FREE`.

    Args:
        first: folder of the first run.
        wanted: its `describe_finished`.
        path: folder of the other run.
        about: its `describe_finished`.
    """
    lines = [
        line if len(line) < 200 else f"{line.partition(':')[0]}: others"  # a list of all classes
        for line in changes(wanted, about, FREE)
    ]
    if lines:
        raise UserError(
            f"{path} differs from {first} in more than seed and train.lr:\n  " + "\n  ".join(lines)
        )


def check_images(data: DataSettings, seeds: Sequence[int]) -> None:
    """Raises UserError if the seeds draw different images from the data.

    The soup would be tested on images that some of its runs have learned.
    """
    first, *others = (images(datasets.load(data, seed)) for seed in dict.fromkeys(seeds))
    if any(other != first for other in others):
        raise UserError(
            f"The seeds of the runs draw different test images from data.name={data.name!r}: the "
            "soup would be tested on images that some of its runs were trained on. Give runs with "
            "one seed and different learning rates, or data with a test split of its own."
        )


def images(data: Dataset) -> list[list[str]]:
    """Returns the names of the images of each split."""
    splits = (data.train, data.val, data.test)
    return [[split.images.name(i) for i in range(len(split))] for split in splits if split]
