"""The run folder: checks before a run continues in it, and the contents of a finished one."""

import functools
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lift_jax.errors import UserError, shown
from lift_jax.evaluation.metrics import NAMES
from lift_jax.evaluation.tables import SPLITS, result_names
from lift_jax.parallel import processes
from lift_jax.runs.answers import calibration_file
from lift_jax.runs.kept import kept_file, other_split
from lift_jax.runs.log import LOG, read_log
from lift_jax.settings import words
from lift_jax.settings.parse import changes, same
from lift_jax.settings.schema import GROUPS as SETTING_GROUPS
from lift_jax.storage import atomic, disk, lock
from lift_jax.storage.addresses import is_remote
from lift_jax.storage.csv_files import read_csv
from lift_jax.storage.names import expand_user
from lift_jax.storage.reading import RUN_BYTES, read_json
from lift_jax.training.monitor import StepRecord

CONFIG, METRICS, PER_CLASS = "config.json", "metrics.json", "per_class.csv"
SUMS, SEALED = "checksums.json", (CONFIG, METRICS, PER_CLASS)
# Settings that may change while a run continues, because they do not change what it learns. A
# backbone or data set at another path is recognised by its content.
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
ADJUSTED = ("test_adjusted", "test_tte_adjusted")  # only with test.adjust
FACTS = ("tuned_params", "head_params", "frozen_params", "steps", "seconds", "images_per_second")
GROUPS = ("many", "medium", "few")
TITLE = (("data", "name"), ("model", "backbone"), ("tuner", "name"), ("loss", "name"))
CLASS_COLUMNS = ("class", "name", "train_images", "group", "test_images")


# --- checks before a run continues ---


def open_workdir(workdir: str | Path) -> Path:
    """Makes the folder. Raises UserError if it cannot be made or written."""
    if is_remote(workdir):
        raise UserError(f"{workdir}: this command needs a folder of this machine.")
    return disk.make_folder(expand_user(workdir), "--workdir")


@contextmanager
def writing(workdir: Path, part: str = "") -> Iterator[None]:
    """Keeps other programs from writing in a run folder; see `lock.one_writer`.

    Of several processes of this program process 0 holds the lock. Raises UserError, in all of them,
    if another program writes there.
    """
    with ExitStack() as stack:
        processes.from_first(lambda: stack.enter_context(lock.one_writer(workdir, part)))
        yield


def write_config(workdir: Path, about: dict) -> None:
    if jax.process_index() == 0:
        atomic.write_json(workdir / CONFIG, about)


def check_config(saved: dict, written: Mapping[str, Any], workdir: Path) -> None:
    """Raises UserError if the run in the folder has another config than `written`."""
    saved = {key: value for key, value in saved.items() if key != "data_summary"}
    changed = changes(saved, written, FREE)
    if changed:
        raise UserError(
            f"{workdir} holds a run of another config:\n  " + "\n  ".join(changed) + "\n"
            "Give another --workdir, or set these back to continue that run."
        )


def check_content(saved: dict, about: dict, workdir: Path) -> None:
    """Raises UserError if classes, counts or backbone differ from those of the folder's run."""
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


def stored_metrics(
    workdir: Path, written: Mapping[str, Any], warn: Callable[[str], None]
) -> dict | None:
    """Returns the results in the folder, if they were made by the same test settings.

    Returns None if there are none yet. If a file of theirs is damaged `warn` says so, and the
    result is None as well.
    """
    if not (workdir / METRICS).exists() and not (workdir / SUMS).exists():
        return None
    try:
        run = load(workdir)
        if changed := changed_files(workdir):
            raise UserError(told(workdir, changed))
    except UserError as e:
        warn(f"{e} The run is tested again, which writes all of its results anew.")
        return None
    alike = same(run.config.get("test", {}), written["test"], ("split",))
    alike &= run.config.get("checkpoint", {}).get("best") == written["checkpoint"]["best"]
    found = read_json(workdir / METRICS, most_bytes=RUN_BYTES)
    return found if alike and found.get("test") else None


def seal(workdir: Path) -> None:
    """Writes checksums.json: those of the files of results and of the kept files.

    By them damage is noticed, and files of another test: of another run, or of one that was killed.
    """
    sums = {name: _crc(workdir / name) for name in SEALED}
    atomic.write_json(workdir / SUMS, sums | kept_file.checksums(workdir))


def changed_files(workdir: Path) -> list[str]:
    """Returns the names of the files of results that are not what the run wrote.

    For a run of a version that wrote no checksums those are calibration.json and the kept files,
    which have their own. A kept file that is missing does not count: one may delete it.
    """
    path, kept = workdir / SUMS, kept_file.checksums(workdir)
    broken = [calibration_file.NAME] * calibration_file.damaged(workdir)
    broken += [name for name, found in kept.items() if found is None]
    if not os.path.lexists(path):
        return broken
    try:
        sums = read_json(path)
        changed = [name for name in SEALED if sums.get(name) != _crc(workdir / name)]
    except (UserError, OSError):
        return [SUMS, *broken]
    others = [
        name for name in kept if name not in broken and sums.get(name, kept[name]) != kept[name]
    ]
    return changed + broken + others


def told(workdir: Path, changed: Sequence[str]) -> str:
    """Returns the sentence that names changed files."""
    verb = "is" if len(changed) == 1 else "are"
    return f"{workdir}: {', '.join(changed)} {verb} not what the run wrote."


def _crc(path: Path) -> int:
    return zlib.crc32(path.read_bytes())


def mend_config(workdir: Path, saved: dict[str, Any], warn: Callable[[str], None]) -> dict:
    """Returns config.json of a run, or if that is damaged the description in its checkpoint.

    Args:
        workdir: the run folder.
        saved: the description in the checkpoint. What may change while a run continues, or is not
            in it, is taken from config.json.
        warn: shows a line that says what is wrong with config.json.

    Raises UserError if neither can be read.
    """
    path = workdir / CONFIG
    try:
        about = _read_json(path, ())
        checked_config(path, about)
        wrong = [line for line in changes(saved, about, FREE) if ": 'absent' -> " not in line]
    except UserError as e:
        if "data_summary" not in saved:
            raise
        warn(f"{e} The settings are taken from the checkpoint.")
        return saved
    if wrong:
        warn(
            f"{path} is not that of the checkpoint ({wrong[0][:100]}). The settings are taken from "
            "the checkpoint."
        )
        return saved
    return about


# --- a finished run ---


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
        tuner = self.config["tuner"]["name"] if self.metrics["tuned_params"] else "none"
        texts = self.config.get("text_tuner", {"name": "none"})["name"]
        models = self.config.get("soups", {}).get("models", 0)
        return result_names(tuner, self.config["label"], texts, models)

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
    workdir = expand_user(workdir)
    if not workdir.is_dir():
        raise UserError(f"{workdir}: expected a run folder (--workdir of a run), found none.")
    config, summary = checked_config(workdir / CONFIG, _read_json(workdir / CONFIG, ()))
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
            splits=_splits(workdir, config, metrics),
        )
    except ValueError as error:
        raise UserError(f"{workdir / 'per_class.csv'}: expected numbers; {error}.") from error


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
            _check_number(path, f"{key}.{name}", metrics[key][name])
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
    _require(path, value, keys)
    return value


def _require(path: Path, value: Mapping[str, Any], keys: Sequence[str]) -> None:
    if missing := [key for key in keys if key not in value]:
        raise UserError(f"{path}: expected the keys {', '.join(missing)}, found none of that name.")


def _read_classes(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    header, rows = read_csv(path)
    if tuple(header) != tuple(columns):
        raise UserError(
            f"{path}: expected the columns {', '.join(columns)}; "
            f"found {', '.join(header) or 'none'}. The run's command, given again, writes it anew."
        )
    found = [dict(zip(columns, row, strict=True)) for row in rows]
    for number, row in enumerate(found, 2):
        if row["group"] not in GROUPS:
            raise UserError(f"{path}: line {number} is broken: {','.join(row.values())[:200]}.")
    return found
