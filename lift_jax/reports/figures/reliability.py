"""The figure of reliability: accuracy by confidence, before and after calibration."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lift_jax.reports.figures.look import GREY, PALETTE, without_box


def reliability_figure(
    before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]]
) -> Figure:
    """Draws accuracy by confidence before and after calibration, one panel for each group.

    Both hold the reliability (`calibration.reliability`) of a group by its name. The larger a dot,
    the more images are in its bin.
    """
    figure = Figure(figsize=(9.6, 3.2), layout="constrained")
    all_axes = figure.subplots(1, len(after), sharex=True, sharey=True, squeeze=False)[0]
    for axes, name in zip(all_axes, after, strict=True):
        axes.plot([0, 100], [0, 100], color="#BBBBBB", linewidth=0.8)
        rows = (("before", before[name], GREY, "o"), ("after", after[name], PALETTE[0], "s"))
        for label, found, colour, marker in rows:
            points = [
                (x, y, n)
                for x, y, n in zip(
                    found["confidence"], found["accuracy"], found["count"], strict=True
                )
                if n
            ]
            x, y, n = np.array(points, dtype=np.float64).reshape(-1, 3).T
            sizes = 12 + 60 * n / max(1, n.sum())
            axes.plot(x, y, color=colour, linewidth=0.8)
            axes.scatter(x, y, sizes, color=colour, marker=marker, label=label, alpha=0.8)
        axes.set(title=name, xlabel="confidence (%)", xlim=(-3, 103), ylim=(-3, 103))
        axes.grid(color="#E3E3E3", linewidth=0.7)
    all_axes[0].set_ylabel("accuracy (%)")
    handles, labels = all_axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=2, frameon=False)
    return without_box(figure)
