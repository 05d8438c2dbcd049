"""A finished run: the contents of its folder, checked."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lift_jax.errors import UserError, shown
from lift_jax.evaluation.metrics import GROUPS, NAMES
from lift_jax.evaluation.tables import SPLITS, result_names
from lift_jax.runs.kept import other_split
from lift_jax.runs.kept.result_files import CONFIG, METRICS, PER_CLASS, changed_files
from lift_jax.runs.log import LOG, read_log
from lift_jax.settings import words
from lift_jax.settings.schema import GROUPS as SETTING_GROUPS
from lift_jax.storage.addresses import is_remote
from lift_jax.storage.formats.csv_files import read_csv
from lift_jax.storage.names import expand_user
from lift_jax.storage.reading import RUN_BYTES, read_json
from lift_jax.training.monitor import StepRecord

RESULTS = ("zero_shot", "test", "test_adjusted", "test_tte", "test_tte_adjusted")
ADJUSTED = ("test_adjusted", "test_tte_adjusted")  # only with test.adjust
FACTS = ("tuned_params", "head_params", "frozen_params", "steps", "seconds", "images_per_second")
TITLE = (("data", "name"), ("model", "backbone"), ("tuner", "name"), ("loss", "name"))
CLASS_COLUMNS = ("class", "name", "train_images", "group", "test_images")


@dataclass(frozen=True)
class Run:
    """The contents of a run folder.

    Attributes:
        workdir: the folder.
        config: the settings, by group.
        metrics: metrics.json.
        steps: the training log, empty for a run that does not train.
        names, groups: of each class.
        train_counts, test_counts: images of each class.
        accuracy: percent of each class by result, NaN where missing.
        splits: accuracies on the training and validation images by split, where they are measured.
    """

    workdir: Path
    config: dict[str, Any]
    metrics: dict[str, Any]
    steps: list[StepRecord]
    names: list[str]
    groups: list[str]
    train_counts: np.ndarray
    test_counts: np.ndarray
    accuracy: dict[str, np.ndarray]
    splits: dict[str, dict[str, Any]] = field(default_factory=dict)

    @functools.cached_property
    def changed(self) -> list[str]:
        """Returns the names of the files that are not what the run wrote (`changed_files`)."""
        return changed_files(self.workdir)

    @property
    def title(self) -> str:
        """Returns the settings that tell runs apart: data, backbone, tuner, loss and training."""
        always = [self.config[group][key] for group, key in TITLE]
        return " · ".join(always + (words.unlike_the_papers(self.config) if self.steps else []))

    @property
    def labels(self) -> dict[str, str]:
        """Returns the name of each result."""
        return result_names(words.method(self.config, bool(self.metrics["tuned_params"])))

    @property
    def tuned_share(self) -> float:
        """Returns the share of all parameters that is tuned, without those of the head."""
        sizes = [self.metrics[key] for key in ("tuned_params", "head_params", "frozen_params")]
        return sizes[0] / max(1, sum(sizes))

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        """Returns the summaries that the run has, by name, test-time ensembling last."""
        return {key: self.metrics[key] for key in RESULTS if self.metrics[key] is not None}


def load(workdir: str | Path) -> Run:
    """Returns the contents of a run folder.

    Raises UserError, which names the file, if one is missing or broken.
    """
    if is_remote(workdir):
        raise UserError(f"{workdir}: this command needs a folder of this machine.")
    workdir = expand_user(workdir)
    if not workdir.is_dir():
        raise UserError(f"{workdir}: expected a run folder (--workdir of a run), found none.")
    config, summary = checked_config(workdir / CONFIG, _read_json(workdir / CONFIG, ()))
    metrics = read_metrics(workdir / METRICS)
    rows = _read_classes(workdir / PER_CLASS, class_columns(metrics))
    if len(rows) != len(summary["class_names"]):
        raise UserError(
            f"{workdir / PER_CLASS}: expected {len(summary['class_names'])} classes ({CONFIG}), "
            f"found {len(rows)}."
        )
    steps = read_log(workdir / LOG) if metrics["steps"] else []
    splits = _splits(workdir, config, metrics)
    try:
        return Run(
            workdir=workdir,
            config=config,
            metrics=metrics,
            steps=steps,
            names=[row["name"] for row in rows],
            groups=[row["group"] for row in rows],
            train_counts=np.array([int(row["train_images"]) for row in rows]),
            test_counts=np.array([int(row["test_images"]) for row in rows]),
            accuracy={
                key: np.array([float(row[key] or "nan") for row in rows])
                for key in RESULTS
                if metrics[key] is not None
            },
            splits=splits,
        )
    except ValueError as error:
        raise UserError(f"{workdir / PER_CLASS}: expected numbers; {error}.") from error


def _splits(
    workdir: Path, config: Mapping[str, Any], metrics: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Returns the accuracies of the tuned classifier on other splits; {} without any."""
    view = config.get("test", {}).get("interpolation", "")
    found = {split: other_split.read(workdir, split, metrics["steps"], view) for split in SPLITS}
    return {split: each["test"] for split, each in found.items() if each and each["test"]}


def checked_config(path: Path, about: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the settings by group and the summary of the data, of the content of config.json.

    Raises UserError, which names file and key, if groups or types are not those of a config.
    """
    config = dict(about)
    _require(path, config, ("data_summary", "label", *(group for group, _ in TITLE)))
    summary = config.pop("data_summary")
    if not isinstance(summary, dict) or "class_names" not in summary:
        raise UserError(f"{path}: expected data_summary to hold class_names.")
    names = summary["class_names"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(
            f"{path}: data_summary.class_names is {shown(names)}; expected a list of texts."
        )
    for group in SETTING_GROUPS:
        if group in config and not isinstance(config[group], dict):
            raise UserError(
                f"{path}: {group} is {shown(config[group])}; expected a group of settings."
            )
    for group, key in TITLE:
        if key not in config[group]:
            raise UserError(f"{path}: expected the setting {group}.{key}, found none.")
        if not isinstance(config[group][key], str):
            raise UserError(f"{path}: {group}.{key} is {shown(config[group][key])}; expected text.")
    if not isinstance(config["label"], str):
        raise UserError(f"{path}: label is {shown(config['label'])}; expected text.")
    return config, summary


def read_config(path: Path) -> dict[str, Any]:
    """Returns the content of config.json. Raises UserError as `checked_config`."""
    about = _read_json(path, ())
    checked_config(path, about)
    return about


def read_metrics(path: Path) -> dict[str, Any]:
    """Returns a run's metrics.json, with None for the results that it does not have.

    Raises UserError, which names file and key, for a file that is broken or has no result.
    """
    always = [key for key in RESULTS if key not in ADJUSTED]
    metrics: dict[str, Any] = dict.fromkeys(ADJUSTED)
    metrics |= _read_json(path, (*always, *FACTS))
    for key in RESULTS:
        values = metrics[key]
        if values is None:
            continue
        if not isinstance(values, dict):
            raise UserError(f"{path}: {key} is {shown(values)}; expected a result.")
        if "overall" not in values:
            raise UserError(f"{path}: expected overall in {key}, found none.")
        # a run of an older version lacks the numbers that were added since
        metrics[key] = dict.fromkeys(NAMES) | values
        for name in NAMES:
            if metrics[key][name] is not None:  # it was measured
                _check_number(path, f"{key}.{name}", metrics[key][name])
    for key in FACTS:
        _check_number(path, key, metrics[key])
    if all(metrics[key] is None for key in RESULTS):
        raise UserError(f"{path}: expected at least one result, found none.")
    return metrics


def _check_number(path: Path, key: str, value: Any) -> None:
    """Raises UserError unless a value is a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{path}: {key} is {shown(value)}; expected a number.")


def class_columns(found: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the columns of per_class.csv; results that are absent or None may have none."""
    adjusted = [key for key in ADJUSTED if found.get(key) is not None]
    return (*CLASS_COLUMNS, *(key for key in RESULTS if key not in ADJUSTED or key in adjusted))


def _read_json(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    value = read_json(path, most_bytes=RUN_BYTES, remedy="A finished run writes it.")
    _require(path, value, keys)
    return value


def _require(path: Path, value: Mapping[str, Any], keys: Sequence[str]) -> None:
    if missing := [key for key in keys if key not in value]:
        raise UserError(f"{path}: expected the keys {', '.join(missing)}; they are missing.")


def _read_classes(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    header, rows = read_csv(path)
    if tuple(header) != tuple(columns):
        raise UserError(
            f"{path}: expected the columns {', '.join(columns)}; "
            f"found {', '.join(header) or 'none'}. Run the training command again to replace it."
        )
    found = [dict(zip(columns, row, strict=True)) for row in rows]
    for number, row in enumerate(found, 2):
        if row["group"] not in GROUPS:
            raise UserError(f"{path}: line {number} is broken: {','.join(row.values())[:200]}.")
    return found
