"""The figure of a sweep that crosses values with learning rates: heat maps of accuracy."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lift_jax.evaluation.metrics import GROUPS
from lift_jax.output.plain import beside, figure_text
from lift_jax.sweeps.by_cell import Point
from lift_jax.sweeps.cells import CROSS

SHOWN = ("overall", *GROUPS)


def heat_map(
    title: str,
    varied: str,
    cells: Sequence[str],
    panels: Mapping[str, Mapping[str, Mapping[str, Point]]],
) -> Figure:
    """Draws accuracy by value (down) and learning rate (across); the best cell has a frame.

    Args:
        title: title of the figure, which says what is compared.
        varied: what the values are.
        cells: names of the cells (`cells.with_rates`), in order.
        panels: mean and deviation by way of testing (a line of heat maps), cell and group of
            classes. A group without classes is left out, a cell without a result is empty.
    """
    split = [cell.split(CROSS) for cell in cells]
    values, rates = (list(dict.fromkeys(each)) for each in zip(*split, strict=True))
    found = [points for panel in panels.values() for points in panel.values()]
    groups = [group for group in SHOWN if any(points[group][0] is not None for points in found)]
    width = 1.3 + (0.8 + 0.52 * len(rates)) * len(groups)
    height = 1 + (0.9 + 0.34 * len(values)) * len(panels)
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(len(panels), len(groups), sharex=True, sharey=True, squeeze=False)
    for row, (testing, panel) in zip(grid, panels.items(), strict=True):
        for axes, group in zip(row, groups, strict=True):
            points = [[panel.get(f"{v}{CROSS}{r}", {}) for r in rates] for v in values]
            means = [[p[group][0] if p else None for p in line] for line in points]
            _draw(axes, np.array(means, dtype=np.float64))  # None becomes NaN
            axes.set_title(f"{figure_text(testing)}: {group}", fontsize=9)
        row[0].set_ylabel(figure_text(varied))
        row[0].set_yticks(range(len(values)), list(map(beside, values)))
    for axes in grid[-1]:
        axes.set_xticks(range(len(rates)), list(map(beside, rates)))
        axes.set_xlabel("learning rate")
    figure.suptitle(figure_text(title))
    return figure


def _draw(axes: Axes, means: Float[np.ndarray, "v r"]) -> None:
    """Draws one heat map, each cell with its number."""
    axes.imshow(means, cmap="cividis", aspect="auto")
    axes.tick_params(labelsize=8)
    axes.spines[:].set_visible(False)
    if np.isnan(means).all():
        return
    middle = (np.nanmin(means) + np.nanmax(means)) / 2
    for (v, r), mean in np.ndenumerate(means):
        if not np.isnan(mean):
            colour = "white" if mean <= middle else "black"
            axes.text(r, v, f"{mean:.1f}", ha="center", va="center", fontsize=7.5, color=colour)
    for v, r in np.argwhere(means == np.nanmax(means)):  # also those that share the first place
        corner = (r - 0.47, v - 0.47)
        axes.add_patch(Rectangle(corner, 0.94, 0.94, fill=False, color="#D55E00", linewidth=1.8))
