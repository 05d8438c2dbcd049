"""The figure of a sweep: accuracy by cell, with error bars over seeds."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from lift_jax.output.plain import beside, figure_text
from lift_jax.reports.figures.look import PALETTE, without_box

Point = tuple[float | None, float | None]  # mean and standard deviation, in percent


def sweep_figure(
    title: str,
    cells: Sequence[str],
    panels: Mapping[str, Mapping[str, Mapping[str, Point]]],
    axis: str = "",
) -> Figure:
    """Draws accuracy by cell, one panel for each way of testing, with error bars over seeds.

    Lines join the cells if the names of all are numbers, and `axis` says of what.

    Args:
        title: title of the figure, which says what is compared.
        cells: names of the cells, in order.
        panels: mean and deviation by title of the panel, cell and group of classes (overall,
            many, medium, few).
        axis: the setting of which the names of the cells are the values.
    """
    styles = {"overall": "o", "many": "s", "medium": "D", "few": "^"}
    joined = len(cells) > 1 and all(cell.replace(".", "", 1).isdigit() for cell in cells)
    width = max(4.8, 1.4 + 0.42 * len(cells))
    figure = Figure(figsize=(0.8 + width * len(panels), 5.0), layout="constrained")
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (name, panel) in zip(all_axes, panels.items(), strict=True):
        for i, (group, marker) in enumerate(styles.items()):
            points = [panel[cell][group] if cell in panel else (None, None) for cell in cells]
            mean, std = np.array(points, dtype=np.float64).T  # None becomes NaN
            axes.errorbar(
                np.arange(len(cells)) + (0 if joined else (i - 1.5) * 0.12),  # side by side
                mean, np.where(np.isnan(std), 0, std), marker=marker, color=PALETTE[i],
                linestyle="-" if joined else "", linewidth=1.2, markersize=6, capsize=2.5,
                label=group,
            )  # fmt: skip
        short = joined or max(map(len, cells)) * len(cells) < 30
        turned = {} if short else {"rotation": 35, "ha": "right", "rotation_mode": "anchor"}
        axes.set_xticks(range(len(cells)), list(map(beside, cells)), **turned)
        axes.set(title=figure_text(name), xlim=(-0.6, len(cells) - 0.4))
        axes.set_xlabel(axis if joined else "")
        axes.grid(axis="y", color="#DDDDDD", linewidth=0.7)
    all_axes[0].set_ylabel("accuracy (%)")
    handles, labels = all_axes[0].get_legend_handles_labels()
    figure.suptitle(figure_text(title))
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return without_box(figure)
