"""The files of results of a run: their names, and the checksums that show if they have changed."""

import os
import zlib
from collections.abc import Sequence
from pathlib import Path

from lift_jax.errors import UserError
from lift_jax.runs.answers import calibration_file
from lift_jax.runs.kept import kept_file
from lift_jax.storage import atomic
from lift_jax.storage.reading import read_json

CONFIG, METRICS, PER_CLASS = "config.json", "metrics.json", "per_class.csv"
SUMS, SEALED = "checksums.json", (CONFIG, METRICS, PER_CLASS)


def seal(workdir: Path) -> None:
    """Writes checksums.json, with the checksums of the result files and of the kept files.

    They show damage, and files of another test: of another run, or of a test that was killed.
    """
    sums = {name: _crc(workdir / name) for name in SEALED}
    atomic.write_json(workdir / SUMS, sums | kept_file.checksums(workdir))


def changed_files(workdir: Path) -> list[str]:
    """Returns the names of the files that are not what the run wrote.

    In a run of a version that wrote no checksums.json, only calibration.json and the kept files are
    checked, which hold checksums of their own. A kept file may be deleted, so a missing one does
    not count.
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


def changed_note(workdir: Path, changed: Sequence[str]) -> str:
    """Returns the sentence that names changed files."""
    verb = "is" if len(changed) == 1 else "are"
    return f"{workdir}: {', '.join(changed)} {verb} not what the run wrote."


def _crc(path: Path) -> int:
    return zlib.crc32(path.read_bytes())
