"""The figures by class: accuracies above numbers of images, and images by split."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lift_jax.output.plain import beside, figure_text
from lift_jax.reports.figures.look import (
    DOTTED,
    PALETTE,
    STYLES,
    running_mean,
    without_box,
)

SHADES = {"many": "#EDF2F7", "medium": "#FFFFFF", "few": "#FBF1E6"}
NAMED = 30  # most classes that are named on the axis


def head_first(groups: Sequence[str], train_counts: Int[np.ndarray, " c"]) -> list[int]:
    """Returns the classes in the order of figures: by group, then by training images.

    The group comes first, because a data set may be grouped by other counts than its own.
    """
    place = {group: i for i, group in enumerate(SHADES)}
    return sorted(range(len(groups)), key=lambda c: (place[groups[c]], -train_counts[c], c))


def class_figure(
    accuracy: Mapping[str, Float[np.ndarray, " c"]],
    labels: Mapping[str, str],
    train_counts: Int[np.ndarray, " c"],
    groups: Sequence[str],
    names: Sequence[str],
) -> Figure:
    """Draws the accuracy of each class above its number of training images, head classes first.

    Args:
        accuracy: percent by result (a key of STYLES), NaN where there is no test image.
        labels: the name of each result in the legend.
        train_counts: training images of each class.
        groups: many, medium or few for each class.
        names: names of the classes.
    """
    order = head_first(groups, train_counts)
    x = np.arange(len(order))
    figure = Figure(figsize=(9.6, 5.4), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    _shade(top, bottom, [groups[c] for c in order])

    few = len(order) <= DOTTED
    width = max(5, len(order) // 30)
    for result, values in accuracy.items():
        colour, marker, filled = STYLES[result]
        if few:
            dots = {"marker": marker, "markersize": 6.5, "markeredgewidth": 1.4}
            face = colour if filled else "none"
            line = {"linewidth": 0.8, "markerfacecolor": face, **dots}
        else:
            line = {"linewidth": 2.2, "linestyle": "-" if filled else (0, (4, 1))}
        y = values[order] if few else running_mean(values[order], width)
        top.plot(x, y, color=colour, label=figure_text(labels[result]), **line)
    top.set(ylim=(-3, 103))
    top.set_ylabel("accuracy (%)" if few else f"accuracy (%), mean of {width} neighbours")
    top.grid(axis="y", color="#DDDDDD", linewidth=0.7)
    legend = top.legend(loc="lower left", frameon=True, framealpha=0.9, edgecolor="none", ncols=3)
    legend.set_in_layout(False)  # otherwise long names would push the axes together

    _count_bars(bottom, np.maximum(train_counts[order], 0.5))
    bottom.set(yscale="log", ylabel="train images", xlim=(-0.6, len(order) - 0.4))
    bottom.set_ylim(bottom=0.8 * max(0.5, train_counts.min()))  # the smallest bar still shows
    _name_classes(bottom, [names[c] for c in order])
    return without_box(figure)


def frequency_figure(
    counts: Mapping[str, Int[np.ndarray, " c"]], groups: Sequence[str], names: Sequence[str]
) -> Figure:
    """Draws the number of images of each class in each split, head classes first.

    `counts` holds the numbers by the name of the split, the training split first.
    """
    order = head_first(groups, next(iter(counts.values())))
    x = np.arange(len(order))
    figure = Figure(figsize=(9.6, 4.4), layout="constrained")
    axes = figure.subplots()
    _shade(axes, axes, [groups[c] for c in order])
    few = len(order) <= DOTTED
    for i, (split, number) in enumerate(counts.items()):
        shown = np.where(number > 0, number, np.nan)[order]  # a class without images has no mark
        if i == 0:
            _count_bars(axes, shown, label=split)
        else:
            style = {"marker": "s^"[i % 2] if few else ".", "linestyle": "", "markersize": 5}
            axes.plot(x, shown, color=PALETTE[i - 1], label=split, **style)
    axes.set(yscale="log", ylabel="images", xlim=(-0.6, len(order) - 0.4))
    axes.set_ylim(bottom=0.4)
    _name_classes(axes, [names[c] for c in order])
    figure.legend(loc="outside lower left", frameon=False, ncols=3)
    return without_box(figure)


def _count_bars(axes: Axes, counts: Float[np.ndarray, " c"], label: str | None = None) -> None:
    """Draws a bar for each class, or one outline of all bars where they would touch."""
    x = np.arange(len(counts))
    if len(counts) <= DOTTED:
        axes.bar(x, counts, width=0.8, color="#9AA5B1", label=label)
    else:  # thousands of bars take seconds to draw
        edges = np.append(x, len(x)) - 0.5
        axes.stairs(counts, edges, baseline=1e-3, fill=True, color="#9AA5B1", label=label)


def _name_classes(axes: Axes, names: Sequence[str]) -> None:
    """Writes the names of the classes below the axis, or only their number if they are many."""
    if len(names) > NAMED:
        axes.set_xlabel(f"{len(names):,} classes, from the most training images to the fewest")
        return
    axes.set_xticks(range(len(names)), list(map(beside, names)), rotation=35, ha="right")


def _shade(top: Axes, bottom: Axes, groups: Sequence[str]) -> None:
    """Colours the range of each group of classes and writes the group's name above it."""
    for group, shade in SHADES.items():
        count = groups.count(group)
        if not count:
            continue
        start = groups.index(group)
        for axes in (top, bottom):
            axes.axvspan(start - 0.5, start + count - 0.5, color=shade, zorder=0, linewidth=0)
        # Outward, so that the names of short stretches at the ends do not meet.
        side = {"many": "left", "medium": "center", "few": "right"}[group]
        x = {"left": start - 0.5, "center": start + (count - 1) / 2, "right": start + count - 0.5}
        text = f"{group} ({count:,})"
        place = top.get_xaxis_transform()
        top.text(x[side], 1.02, text, transform=place, ha=side, color="#444444")
