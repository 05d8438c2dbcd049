"""Averages the tuned weights of several runs: an adapter soup (Wortsman et al., ICML 2022).

    python -m lift_jax.soup W1 W2 [...] --workdir=W

The runs are finished ones of the same config but for `seed` and `train.lr`. W becomes a run folder
with their mean, tested as they are; soup.csv in it has the results of each of them and of the soup.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from absl import logging
from ml_collections import ConfigDict
from rich.console import Console

from lift_jax import checkpoint, command, export, folder, log, metrics, optim, report, train
from lift_jax import config as config_lib
from lift_jax.data import catalog, loader
from lift_jax.data.images import Dataset
from lift_jax.errors import UserError
from lift_jax.state import State

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
    check_images(config, [member.config["seed"] for member in members])
    config.label = f"{config.label}, soup of {len(members)}"
    config.checkpoint.best = False  # the mean itself has not been validated
    leaves = [export.newest(path) for path in paths]
    mean = {
        key: jnp.asarray(np.mean([own[key] for own in leaves], axis=0, dtype=np.float64), "float32")
        for key in leaves[0]
    }
    optimizer = optim.sgd(lambda step: 0.0, config.train.momentum, config.train.weight_decay)
    state = State(jnp.int32(members[0].metrics["steps"]), mean, optimizer.init(mean))
    with checkpoint.open_manager(workdir, config.checkpoint.keep) as manager:
        summary = abouts[0]["data_summary"]
        checkpoint.save(manager, state, {**folder.plain(config), "data_summary": summary})
        checkpoint.wait(manager)
    (workdir / log.LOG).touch()  # it did not train, but what it is made of did
    found = train.run(config, workdir, "evaluate")

    rows = {str(path): member.metrics for path, member in zip(paths, members, strict=True)}
    rows["soup"] = found
    table = {
        name + ending: row.get(key) for key, ending in RESULTS.items() for name, row in rows.items()
    }
    log.write_csv(
        workdir / "soup.csv",
        ["run", *metrics.NAMES],
        ([name, *(row[key] for key in metrics.NAMES)] for name, row in table.items() if row),
    )
    Console().print(log.results_table(table))
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
        for line in config_lib.differences(wanted, about)
        if not any(line.startswith((f"{key}:", f"{key}.")) for key in FREE)
    ]
    if lines:
        raise UserError(
            f"{path} differs from {first} in more than seed and train.lr:\n  " + "\n  ".join(lines)
        )


def check_images(config: ConfigDict, seeds: Sequence[int]) -> None:
    """Raises UserError if the seeds draw other images from the data, for a soup could cheat."""
    first, *others = (images(catalog.load(config.data, seed)) for seed in dict.fromkeys(seeds))
    if any(other != first for other in others):
        raise UserError(
            f"The seeds of the runs draw other test images from data.name={config.data.name!r}: "
            "the soup would be tested on images that some of its runs have learned. Give runs of "
            "one seed with other learning rates, or data with a test set of its own."
        )


def images(data: Dataset) -> list[list[str]]:
    splits = (data.train, data.val, data.test)
    return [[split.images.name(i) for i in range(len(split))] for split in splits if split]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = command.parser("soup", __doc__)
    parser.add_argument("runs", nargs="+", metavar="W", help="a folder of a finished run")
    parser.add_argument("--workdir", required=True, help="the folder of the soup")
    parser.add_argument("--config", metavar="FILE.py", help="of the runs, if it defines tuners")
    flags = parser.parse_args(arguments)
    logging.set_verbosity(logging.ERROR)  # orbax warns of what it does not need
    with command.told():
        command.define(flags.config)
        soup(flags.runs, flags.workdir)
        print(f"Report: {report.write(flags.workdir)}")


if __name__ == "__main__":
    main()
