"""The figure of accuracy by number of training images: lines of means, and a dot for each class."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from lift_jax.evaluation.insight.class_changes import Band
from lift_jax.output.plain import figure_text
from lift_jax.reports.figures.look import DOTTED, PALETTE, STYLES, in_legend, without_box

NAMED = 15  # most classes whose dots are named


def accuracy_figure(
    lines: Mapping[str, tuple[Sequence[Band], str]],
    counts: Int[np.ndarray, " c"] | None = None,
    accuracy: Float[np.ndarray, " c"] | None = None,
    names: Sequence[str] = (),
) -> Figure:
    """Draws accuracy by number of training images: lines of means, and a dot for each class.

    Args:
        lines: the means and the key of STYLES, or a colour, of each line by its name.
        counts, accuracy, names: training images, percent and name of the class of each dot; a
            class without test images (NaN) has none.
    """
    figure = Figure(figsize=(9.6, 4.6), layout="constrained")
    axes = figure.subplots()
    if counts is not None and accuracy is not None:
        _class_dots(axes, counts, accuracy, names)
    for i, (name, (bands, style)) in enumerate(lines.items()):
        colour, marker, filled = STYLES.get(style, (style, "os^Dv"[i % 5], i % 2 == 0))
        axes.plot(
            [band.images for band in bands], [band.mean for band in bands], color=colour,
            marker=marker, markersize=6, markerfacecolor=colour if filled else "white",
            linewidth=2, linestyle="-" if filled else (0, (4, 1)),
            label=in_legend(name),
        )  # fmt: skip
    left, right = axes.dataLim.intervalx
    if left <= right < 1.01 * left:  # classes of one size give the axis no width
        axes.set_xlim(left / 2, right * 2)
    axes.set(xscale="log", xlabel="training images of a class", ylabel="accuracy (%)")
    axes.set(ylim=(-4, 106))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(color="#E3E3E3", linewidth=0.7)
    legend = figure.legend(loc="outside lower left", frameon=False, ncols=3)
    for handle in legend.legend_handles:
        if isinstance(handle, PathCollection):  # the dot of a class, which may be too small to see
            handle.set(sizes=[30.0], alpha=0.8)
    return without_box(figure)


def _class_dots(
    axes: Axes, counts: Int[np.ndarray, " c"], accuracy: Float[np.ndarray, " c"],
    names: Sequence[str],
) -> None:  # fmt: skip
    """Draws a dot for each class, with its name where the classes are few.

    Of many classes, which have many equal values, each dot is moved a little, always the same way.
    """
    shown = np.flatnonzero((counts > 0) & np.isfinite(accuracy))
    x, y, size = counts[shown].astype(np.float64), accuracy[shown].copy(), 30.0
    if len(names) > DOTTED:
        places = np.arange(len(shown))  # a sequence that fills the square evenly
        x *= np.exp(0.16 * (places * 0.7548776662 % 1 - 0.5))
        y += 2.4 * (places * 0.5698402910 % 1 - 0.5)
        size = max(5.0, min(14.0, 8000 / len(shown)))
    alpha = min(0.8, max(0.25, 150 / max(1, len(shown))))
    axes.scatter(x, y, size, color=PALETTE[0], alpha=alpha, linewidths=0, label="a class")
    if len(names) <= NAMED:
        for i, c in enumerate(shown):
            below = i % 2 == 1  # so that neighbours do not meet
            axes.annotate(
                figure_text(names[int(c)], 20), (x[i], y[i]), (0, -7 if below else 6),
                fontsize=7.5, textcoords="offset points", color="#444444",
                ha="center", va="top" if below else "bottom",
            )  # fmt: skip
