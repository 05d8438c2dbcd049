"""Runs on the Hugging Face hub: folders of `--format=adapters` that `--push` has uploaded."""

import os
from pathlib import Path

from lift_jax.errors import UserError
from lift_jax.runs.answers import calibration_file
from lift_jax.runs.kept.result_files import CONFIG
from lift_jax.training.checkpoint import alone
from lift_jax.weights.files.repository import NAME, failures, look_up


def folder_of(run: str | Path) -> str | Path:
    """Returns a run as it is, or the folder of its files if it is a name on the hub.

    A name is owner/name or owner/name@revision: a branch, a tag or a commit. It counts as a path if
    there is a file or folder of that name, or a folder `owner`. The files are kept in the cache of
    huggingface_hub, and are used from there without a network.

    Raises UserError if the repository holds no run, or if it cannot be downloaded.
    """
    found = NAME.fullmatch(str(run))
    if found is None or os.path.lexists(run) or Path(run).parent.is_dir():
        return run
    repository, revision = found[1], found[2]
    with failures("run", repository, revision):
        there = look_up(repository, revision)
        if not {CONFIG, alone.NAME} <= there.names:
            there.check_reached("no run in the cache")
            raise UserError(
                f"{repository} on the hub holds no run: expected {alone.NAME} and {CONFIG}; found "
                f"{', '.join(sorted(there.names)) or 'nothing'}. Push one: lift-jax export "
                "--format=adapters --push=OWNER/NAME."
            )
        # The weights come last, so that a cached snapshot with weights has all the other files.
        if calibration_file.NAME in there.names:
            there.fetch(calibration_file.NAME)
        there.fetch(CONFIG)
        return there.fetch(alone.NAME).parent
