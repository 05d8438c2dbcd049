"""The run folder: whether a run may go on in it, and what a finished one says."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lift_jax.errors import UserError, shown
from lift_jax.evaluation.metrics import NAMES
from lift_jax.evaluation.tables import result_names
from lift_jax.runs.log import LOG, read_log
from lift_jax.settings.parse import changes
from lift_jax.settings.schema import GROUPS as SETTING_GROUPS
from lift_jax.storage import atomic
from lift_jax.storage.addresses import is_remote
from lift_jax.storage.reading import RUN_BYTES, read_json
from lift_jax.training.monitor import StepRecord

CONFIG, METRICS = "config.json", "metrics.json"
# What may change while a run continues, for it does not change what is learned; a backbone or a
# data set at another place is recognised by its content.
FREE = (
    "checkpoint",
    "mesh",
    "test",
    "train.accum",
    "train.remat",
    "model.backbone",
    "data.workers",
    "data.features_gb",
    "data.root",
    "data.train_list",
    "data.test_list",
    "data.val_list",
    "data.class_names",
    "data.expected",
)
RESULTS = ("zero_shot", "test", "test_adjusted", "test_tte", "test_tte_adjusted")
ADJUSTED = ("test_adjusted", "test_tte_adjusted")  # only where test.adjust asks for them
FACTS = ("tuned_params", "head_params", "frozen_params", "steps", "seconds", "images_per_second")
GROUPS = ("many", "medium", "few")
TITLE = (("data", "name"), ("model", "backbone"), ("tuner", "name"), ("loss", "name"))
CLASS_COLUMNS = ("class", "name", "train_images", "group", "test_images")


# -- going on in one


def open_workdir(workdir: str | Path) -> Path:
    """Makes the folder. Raises UserError if that fails."""
    if is_remote(workdir):
        raise UserError(f"{workdir}: this command needs a folder of this machine.")
    path = Path(workdir).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"Cannot make the run folder {path} (--workdir): {e.strerror}.") from e
    return path


def write_config(workdir: Path, about: dict) -> None:
    if jax.process_index() == 0:
        atomic.write_json(workdir / CONFIG, about)


def check_config(saved: dict, written: Mapping[str, Any], workdir: Path) -> None:
    """Raises UserError if the folder's run was made by another config than `written`."""
    saved = {key: value for key, value in saved.items() if key != "data_summary"}
    changed = changes(saved, written, FREE)
    if changed:
        raise UserError(
            f"{workdir} holds a run of another config:\n  " + "\n  ".join(changed) + "\n"
            "Give another --workdir, or set these back to continue that run."
        )


def check_content(saved: dict, about: dict, workdir: Path) -> None:
    """Raises UserError if classes, counts or backbone are not those of the folder's run."""
    kinds = {
        "class_names": "other classes",
        "counts": "other training images",
        "prepared": "training images prepared otherwise (data.prepared)",
        "backbone_fingerprint": "other backbone weights",
    }
    for key, kind in kinds.items():
        if saved["data_summary"][key] != about["data_summary"][key]:
            raise UserError(
                f"{workdir} holds a run with {kind} than the config gives now. Give another "
                "--workdir, or the data and the backbone that the run began with."
            )


def stored_metrics(workdir: Path, written: Mapping[str, Any]) -> dict | None:
    """Returns the results in the folder, if they were made by the same test settings."""
    try:
        about = read_json(workdir / CONFIG, most_bytes=RUN_BYTES)
        found = read_json(workdir / METRICS, most_bytes=RUN_BYTES)
    except UserError:
        return None  # not tested yet, or a file that somebody changed: test again
    now, kept = written, about.get("checkpoint")
    same = about.get("test") == now["test"] and isinstance(kept, dict)
    same = same and kept.get("best") == now["checkpoint"]["best"]
    return found if same and found.get("test") else None


# -- a finished one


@dataclass(frozen=True)
class Run:
    """What a run folder says.

    Attributes:
        workdir: the folder.
        config: the settings, by group.
        metrics: metrics.json.
        steps: the training log, empty for a run that does not train.
        names, groups: of each class.
        train_counts, test_counts: images of each class.
        accuracy: percent of each class by result, NaN where missing.
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

    @property
    def title(self) -> str:
        """Returns the settings that tell runs apart: data, backbone, tuner and loss."""
        return " · ".join(str(self.config[group][key]) for group, key in TITLE)

    @property
    def labels(self) -> dict[str, str]:
        """Returns the name of each result."""
        tuner = self.config["tuner"]["name"] if self.metrics["tuned_params"] else "none"
        texts = self.config.get("text_tuner", {"name": "none"})["name"]
        return result_names(tuner, self.config["label"], texts)

    @property
    def tuned_share(self) -> float:
        """Returns the share of all parameters that is tuned; the head does not count as tuned."""
        sizes = [self.metrics[key] for key in ("tuned_params", "head_params", "frozen_params")]
        return sizes[0] / max(1, sum(sizes))

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        """Returns the summaries that the run has, by name, test-time ensembling last."""
        return {key: self.metrics[key] for key in RESULTS if self.metrics[key] is not None}


def load(workdir: str | Path) -> Run:
    """Reads a run folder.

    Raises:
        UserError: for a file that is missing or broken, by name.
    """
    if is_remote(workdir):
        raise UserError(f"{workdir}: this command needs a folder of this machine.")
    workdir = Path(workdir)
    if not workdir.is_dir():
        raise UserError(f"{workdir}: expected a run folder (--workdir of a run), found none.")
    config, summary = read_config(workdir)
    metrics = read_metrics(workdir / METRICS)
    rows = _read_classes(workdir / "per_class.csv", class_columns(metrics))
    if len(rows) != len(summary["class_names"]):
        raise UserError(
            f"{workdir / 'per_class.csv'}: expected {len(summary['class_names'])} classes "
            f"(config.json), found {len(rows)}."
        )
    try:
        return Run(
            workdir=workdir,
            config=config,
            metrics=metrics,
            steps=read_log(workdir / LOG) if metrics["steps"] else [],
            names=[row["name"] for row in rows],
            groups=[row["group"] for row in rows],
            train_counts=np.array([int(row["train_images"]) for row in rows]),
            test_counts=np.array([int(row["test_images"]) for row in rows]),
            accuracy={
                key: np.array([float(row[key] or "nan") for row in rows])
                for key in RESULTS
                if metrics[key] is not None
            },
        )
    except ValueError as error:
        raise UserError(f"{workdir / 'per_class.csv'}: expected numbers; {error}.") from error


def read_config(workdir: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the settings of a run by group, and the summary of its data.

    Raises UserError, which names file and key, for a config.json that is broken, or whose classes
    are no texts.
    """
    path = workdir / CONFIG
    config = _read_json(path, ("data_summary", "label", *(group for group, _ in TITLE)))
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
        if missing := set(NAMES) - set(values):
            missing = ", ".join(sorted(missing))
            raise UserError(f"{path}: expected {missing} in {key}, found none.")
        for name in NAMES:
            _check_number(path, f"{key}.{name}", values[name])
    for key in FACTS:
        _check_number(path, key, metrics[key])
    if all(metrics[key] is None for key in RESULTS):
        raise UserError(f"{path}: expected at least one result, found none.")
    return metrics


def _check_number(path: Path, key: str, value: Any) -> None:
    """Raises UserError unless a value is a number, or null for one that there is not."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise UserError(f"{path}: {key} is {shown(value)}; expected a number.")


def class_columns(found: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the columns of per_class.csv; results that are absent or None may have none."""
    adjusted = [key for key in ADJUSTED if found.get(key) is not None]
    return (*CLASS_COLUMNS, *(key for key in RESULTS if key not in ADJUSTED or key in adjusted))


def _read_json(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    value = read_json(path, most_bytes=RUN_BYTES, remedy="A finished run writes it.")
    if missing := [key for key in keys if key not in value]:
        raise UserError(f"{path}: expected the keys {', '.join(missing)}, found none of that name.")
    return value


def _read_classes(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    try:
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            rows = list(reader)
    except OSError as error:
        raise UserError(
            f"{path}: cannot read: {error.strerror}. A finished run writes it."
        ) from error
    except (csv.Error, ValueError) as error:
        raise UserError(f"{path}: expected a CSV table; {error}.") from error
    if tuple(reader.fieldnames or ()) != tuple(columns):
        raise UserError(
            f"{path}: expected the columns {', '.join(columns)}; "
            f"found {', '.join(reader.fieldnames or ['none'])}."
        )
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values() or row["group"] not in GROUPS:
            raise UserError(f"{path}: line {number} is broken: {','.join(map(str, row.values()))}.")
    return rows
