"""The tuned weights of a run folder, as they are and under the names of the authors' code."""

from pathlib import Path
from typing import Any

import numpy as np

from lift_jax.errors import UserError
from lift_jax.runs.kept import result_files
from lift_jax.settings.values import fixed_scale
from lift_jax.storage import atomic, disk
from lift_jax.storage.names import expand_user
from lift_jax.storage.reading import RUN_BYTES, read_json
from lift_jax.training import checkpoint
from lift_jax.training.checkpoint import alone
from lift_jax.weights import authors


def export(run: str | Path, to: str | Path, layout: str = "lift_plus") -> Path:
    """Writes the tuned weights of a run folder to a safetensors file, and returns its path.

    Args:
        run: the run folder; the weights are those of `read_tuned`.
        to: the file to write; it must end in .safetensors and not exist.
        layout: lift_plus or lift, the repository whose names are used.

    Raises UserError as `read_tuned` does, if the file exists or cannot be written, and if the
    layout is unknown or has no name for a tuned weight.
    """
    run, to = expand_user(run), expand_user(to)
    if to.suffix != ".safetensors":
        raise UserError(f"--to is {to}; it must end in .safetensors, the format of the file.")
    if to.exists():
        raise UserError(f"{to} exists (--to). Remove it, or give another name.")
    disk.make_place(to, "--to")
    leaves = with_fixed_scales(run, read_tuned(run))
    if any("/tuners/aft/" in path for path in leaves):
        authors.check_mask(str(run), layout, read_setting(run, "tuner", "mask"))
    authors.write(to, leaves, layout)
    return to


def read_setting(run: Path, group: str, name: str) -> Any:
    """Returns a setting of a run. Raises UserError if config.json does not hold it."""
    path = run / result_files.CONFIG
    try:
        return read_json(path, most_bytes=RUN_BYTES)[group][name]
    except (UserError, KeyError, TypeError) as e:
        raise UserError(
            f"{path} does not hold the setting {group}.{name}, which the exported file depends on. "
            "Put back the file that the run wrote."
        ) from e


def with_fixed_scales(run: Path, leaves: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns tuned leaves with AdaptFormer's scales, also where they were not learned.

    The authors' code has a scale in each block, and would take 1 without one in the file. Raises
    UserError if config.json lacks the scale, or says that it was learned.
    """
    norms = [path for path in leaves if path.endswith("/tuners/adaptformer/norm/scale")]
    missing = {path.replace("/norm/scale", "/scale") for path in norms} - leaves.keys()
    if not missing:
        return leaves

    def fixed(path: str) -> np.ndarray:
        group = "text_tuner" if path.startswith("head/") else "tuner"
        scale = fixed_scale(f"{group}.scale", str(read_setting(run, group, "scale")))
        if scale is None:
            raise UserError(
                f"{run / result_files.CONFIG}: {group}.scale is 'learned', and the checkpoint "
                "holds no learned scale. Put back the file that the run wrote."
            )
        return np.asarray(scale, np.float32)

    return leaves | {path: fixed(path) for path in missing}


def read_tuned(run: Path) -> dict[str, np.ndarray]:
    """Returns the tuned leaves of a run folder, those of `read_checkpoint`."""
    return read_checkpoint(run)[0]


def read_checkpoint(run: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns the tuned leaves in a run's checkpoint, and its description of the run.

    The description holds the settings and a summary of the data. The checkpoint is the best by
    validation, or the newest if none was validated. If it is damaged, a warning says so and the one
    before it is read. Nothing in the folder is changed, so the run may still be training. A folder
    of `--format=adapters` has one file in place of checkpoints.

    Raises UserError if there is no checkpoint, or none can be read.
    """
    if not run.is_dir():
        raise UserError(f"{run}: expected a run folder (--run), found none.")
    folder = run / checkpoint.FOLDER
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; expected the folder of checkpoints. Put it back.")
    found = checkpoint.read_tuned(run, atomic.warn) or alone.read(run)
    if found is None:
        raise UserError(f"{run} holds no checkpoint. Train first: lift-jax train.")
    return found
