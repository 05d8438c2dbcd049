"""The run folder: its one writer, and checks before a run continues in it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax

from lift_jax.data.sources import folders
from lift_jax.errors import UserError
from lift_jax.parallel import processes
from lift_jax.runs import finished_run
from lift_jax.runs.kept.result_files import CONFIG, METRICS, SUMS, changed_files, changed_note
from lift_jax.settings.groups.data import DataSettings
from lift_jax.settings.parse import changes, same
from lift_jax.storage import atomic, disk, lock
from lift_jax.storage.addresses import is_remote
from lift_jax.storage.names import expand_user
from lift_jax.storage.reading import RUN_BYTES, read_json

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


def open_workdir(workdir: str | Path, data: DataSettings | None = None) -> Path:
    """Makes the folder for a run on `data`.

    Raises UserError if it cannot be made or written, or lies among the classes of the data.
    """
    if is_remote(workdir):
        raise UserError(f"{workdir}: this command needs a folder of this machine.")
    path = expand_user(workdir)
    if data is not None and data.name == "folder" and data.root and not is_remote(data.root):
        _check_apart(path, expand_user(data.root))
    return disk.make_folder(path, "--workdir")


def _check_apart(workdir: Path, root: Path) -> None:
    """Raises UserError for a run folder whose figures the next run would take for a class."""
    try:
        places = folders.class_folders(root)
    except UserError:
        return  # reading the data says what is wrong with it
    for place in places:
        if workdir.resolve().is_relative_to(place.resolve()):
            raise UserError(
                f"{workdir} (--workdir) lies in {place}, where each folder of images is a class "
                "(data.root): the figures of a run would be taken for one. Give a folder beside it."
            )


@contextmanager
def writing(workdir: Path, part: str = "") -> Iterator[None]:
    """Keeps other programs from writing in a run folder; see `lock.one_writer`.

    If this program has several processes, process 0 holds the lock. Raises UserError, in all of
    them, if another program writes there.
    """
    with ExitStack() as stack:
        processes.from_first(lambda: stack.enter_context(lock.one_writer(workdir, part)))
        yield


def write_config(workdir: Path, about: dict) -> None:
    """Writes config.json, in process 0 alone."""
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

    Returns None if there are none yet, and, after a line by `warn`, if one of their files is
    damaged or missing.
    """
    if not (workdir / METRICS).exists() and not (workdir / SUMS).exists():
        return None
    try:
        run = finished_run.load(workdir)
        if changed := changed_files(workdir):
            raise UserError(changed_note(workdir, changed))
    except UserError as e:
        warn(f"{e} The run is tested again, which writes all of its results again.")
        return None
    alike = same(run.config.get("test", {}), written["test"], ("split",))
    alike &= run.config.get("checkpoint", {}).get("best") == written["checkpoint"]["best"]
    found = read_json(workdir / METRICS, most_bytes=RUN_BYTES)
    return found if alike and found.get("test") else None


def mend_config(workdir: Path, saved: dict[str, Any], warn: Callable[[str], None]) -> dict:
    """Returns config.json of a run or, if it is damaged, the description in its checkpoint.

    Args:
        workdir: the run folder.
        saved: the description in the checkpoint. What may change while a run continues, or is not
            in it, is taken from config.json.
        warn: shows a line that says what is wrong with config.json.

    Raises UserError if neither can be read.
    """
    path = workdir / CONFIG
    try:
        about = finished_run.read_config(path)
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
