"""The folder of a sweep, which holds one sweep: its table is not replaced by that of another."""

from collections.abc import Collection
from pathlib import Path

from lift_jax.errors import UserError
from lift_jax.runs.folder import check_config
from lift_jax.runs.kept.result_files import CONFIG
from lift_jax.settings.parse import to_dict
from lift_jax.storage.formats.csv_files import read_csv
from lift_jax.storage.reading import RUN_BYTES, read_json
from lift_jax.sweeps.finished_runs import Runs
from lift_jax.sweeps.table import CSV


def check_same(workdir: Path, runs: Runs, names: Collection[str]) -> None:
    """Raises UserError if a folder holds another sweep than that of `runs`.

    It does if its table has a cell that is none of `names`, the cells of this sweep in a table, or
    if runs of these cells are there and none of them has its config.
    """
    for cell in _cells_of_table(workdir / CSV):
        if cell not in names:
            raise UserError(
                f"{workdir} holds the table of another sweep: {cell!r} is none of the cells of "
                "this one. Give another --workdir."
            )
    others = []
    for folder, config in (each for cell in runs.values() for each in cell.items()):
        try:
            saved = read_json(folder / CONFIG, most_bytes=RUN_BYTES)
        except UserError:
            continue  # not begun, or damaged: its run says so
        try:
            check_config(saved, to_dict(config), folder)
        except UserError as other:
            others.append(other)
        else:
            return
    if others:
        raise others[0]


def _cells_of_table(path: Path) -> list[str]:
    """Returns the cells in the table of a sweep, [] if there is none."""
    if not path.exists():
        return []
    header, rows = read_csv(path)
    return [row[header.index("cell")] for row in rows] if "cell" in header else []
