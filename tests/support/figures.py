"""Figures that are drawn once, for tests that write the same report many times."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from lift_jax.reports import figure_file
from lift_jax.storage import atomic


def draw_once(patch: pytest.MonkeyPatch) -> None:
    """Makes each figure file be drawn until it is written, and its bytes be written again then.

    Drawing is most of the time of a report. Each figure still becomes a file, which may fail.
    """
    drawn: dict[Path, bytes] = {}
    write = figure_file.write

    def write_again(figure: Figure, path: Path) -> bytes:
        if path not in drawn:
            drawn[path] = write(figure, path)
        else:
            atomic.write_bytes(path, drawn[path])
        return drawn[path]

    patch.setattr(figure_file, "write", write_again)
