"""The figure that compares runs: bars of their accuracies by group of classes."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from lift_jax.evaluation.metrics import COLUMNS
from lift_jax.reports.figures.look import PALETTE, in_legend, without_box


def comparison_figure(runs: Mapping[str, Mapping[str, float | None]]) -> Figure:
    """Draws bars of overall, many, medium, few and mean accuracy (percent) for several runs."""
    figure = Figure(figsize=(9.6, 3.6 + 0.22 * len(runs)), layout="constrained")
    axes = figure.subplots()
    width = 0.82 / len(runs)
    for i, (name, summary) in enumerate(runs.items()):
        values = [summary[column] for column in COLUMNS]
        bars = axes.bar(
            np.arange(len(COLUMNS)) + (i - (len(runs) - 1) / 2) * width,
            [value or 0 for value in values],
            width * 0.94,
            label=in_legend(name),
            color=PALETTE[i % len(PALETTE)],
            hatch=("", "//", "..")[i // len(PALETTE) % 3],
            edgecolor="white",
        )
        if len(runs) <= 5:
            texts = ["–" if value is None else f"{value:.1f}" for value in values]
            axes.bar_label(bars, texts, fontsize=8, padding=2)
    axes.set(ylabel="accuracy (%)", ylim=(0, 105))
    axes.set_xticks(range(len(COLUMNS)), COLUMNS)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.7)
    figure.legend(loc="outside lower left", frameon=False, ncols=2)
    return without_box(figure)
