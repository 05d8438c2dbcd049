"""The tuned weights alone, as a small folder that stands in for the run where its backbone is."""

from pathlib import Path, PurePath
from typing import Any

import jax
import numpy as np

from lift_jax.export import deployed as deployed_module
from lift_jax.export.deployed import Deployed
from lift_jax.export.description import as_texts
from lift_jax.export.golden import Probabilities
from lift_jax.runs import folder as run_folder
from lift_jax.runs.answers import calibration_file
from lift_jax.runs.kept import result_files
from lift_jax.runs.weights import export
from lift_jax.settings.schema import all_entries
from lift_jax.storage import atomic
from lift_jax.training.checkpoint import alone

BACKBONE = "model.backbone"


def write(deployed: Deployed, folder: Path) -> Probabilities:
    """Writes the tuned leaves, the settings, and the calibration if it is of these leaves.

    Returns the folder, read back as a run. Raises UserError as `export.read_checkpoint` does.
    """
    leaves, saved = export.read_checkpoint(deployed.run)
    about = without_paths(run_folder.mend_config(deployed.run, saved, lambda line: None))
    summary = about["data_summary"]
    facts = deployed.about | {key: summary[key] for key in ("backbone_fingerprint", "counts")}
    alone.write(folder, leaves, about, as_texts(facts))
    atomic.write_json(folder / result_files.CONFIG, about)
    calibration = calibration_file.read(deployed.run)
    if calibration is not None and calibration.get("weights") == deployed.found.weights:
        content = (deployed.run / calibration_file.NAME).read_bytes()
        atomic.write_bytes(folder / calibration_file.NAME, content)
    return load(folder)


def without_paths(about: dict[str, Any]) -> dict[str, Any]:
    """Returns settings in which paths of this machine are their last names.

    The path of the backbone stays, because the backbone is read from there.
    """
    cleaned: dict[str, Any] = {k: dict(v) if isinstance(v, dict) else v for k, v in about.items()}
    for key, entry in all_entries().items():
        group, _, name = key.rpartition(".")
        if entry.about.path and key != BACKBONE and cleaned.get(group, {}).get(name):
            cleaned[group][name] = PurePath(cleaned[group][name]).name
    return cleaned


def load(folder: Path) -> Probabilities:
    """Returns the function from views to probabilities of a folder."""
    of_views = jax.jit(deployed_module.load(folder).of_views)
    return lambda images: np.asarray(of_views(images)[1])
