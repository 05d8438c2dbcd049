"""The contact sheet of views: what the model sees of images, in training and in tests."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure

from lift_jax.output.plain import beside, figure_text


def views_figure(
    rows: Mapping[str, Sequence[UInt8[np.ndarray, "h w 3"]]], columns: Sequence[str]
) -> Figure:
    """Draws a contact sheet: one row for each image, by its title, and one column for each view."""
    figure = Figure(figsize=(1.25 * len(columns) + 1.6, 1.36 * len(rows) + 0.5))
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    grid = figure.subplots(len(rows), len(columns), squeeze=False)
    for line, (title, views) in zip(grid, rows.items(), strict=True):
        for axes, view in zip(line, views, strict=True):
            axes.imshow(view)
            axes.set(adjustable="datalim", box_aspect=1)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
        line[0].set_ylabel(beside(title), rotation=0, ha="right", va="center", fontsize=8)
    for axes, column in zip(grid[0], columns, strict=True):
        axes.set_title(figure_text(column), fontsize=8)
    return figure
