"""The figures of a report, drawn without a display: accuracy by class, training, comparison, ...

Colours are of the Okabe-Ito palette, which colour-blind readers can tell apart; markers and line
styles differ as well.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from lift_jax.evaluation.insight.class_changes import Band
from lift_jax.output.plain import figure_text
from lift_jax.training.monitor import StepRecord

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#767676"
# Colour, marker, and whether the marker is filled, for each result of a run.
STYLES = {
    "zero_shot": (GREY, "o", True),
    "test": (PALETTE[0], "s", True),
    "test_adjusted": (PALETTE[2], "D", True),
    "test_tte": (PALETTE[1], "^", False),
    "test_tte_adjusted": (PALETTE[3], "v", False),
}
SHADES = {"many": "#EDF2F7", "medium": "#FFFFFF", "few": "#FBF1E6"}
NAMED = 30  # most classes that are named on the axis
NAMED_DOTS = 15  # most classes whose dots are named
DOTTED = 60  # most classes or steps that are drawn one by one; more get a running mean


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
        y = values[order] if few else _running_mean(values[order], width)
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
    return _clean(figure)


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
    for i, (given, (bands, style)) in enumerate(lines.items()):
        name = figure_text(given)
        colour, marker, filled = STYLES.get(style, (style, "os^Dv"[i % 5], i % 2 == 0))
        axes.plot(
            [band.images for band in bands], [band.mean for band in bands], color=colour,
            marker=marker, markersize=6, markerfacecolor=colour if filled else "white",
            linewidth=2, linestyle="-" if filled else (0, (4, 1)),
            label=f" {name}" if name.startswith("_") else name,  # else the legend lacks it
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
    return _clean(figure)


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
    if len(names) <= NAMED_DOTS:
        for i, c in enumerate(shown):
            below = i % 2 == 1  # so that neighbours do not meet
            axes.annotate(
                figure_text(names[int(c)])[:20], (x[i], y[i]), (0, -7 if below else 6),
                fontsize=7.5, textcoords="offset points", color="#444444",
                ha="center", va="top" if below else "bottom",
            )  # fmt: skip


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
    return _clean(figure)


def _count_bars(axes: Axes, counts: Float[np.ndarray, " c"], label: str | None = None) -> None:
    """Draws a bar for each class, or one outline of all bars where they would touch."""
    x = np.arange(len(counts))
    if len(counts) <= DOTTED:
        axes.bar(x, counts, width=0.8, color="#9AA5B1", label=label)
    else:  # thousands of bars take seconds to draw
        edges = np.append(x, len(x)) - 0.5
        axes.stairs(counts, edges, baseline=1e-3, fill=True, color="#9AA5B1", label=label)


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
        line[0].set_ylabel(figure_text(title), rotation=0, ha="right", va="center", fontsize=8)
    for axes, column in zip(grid[0], columns, strict=True):
        axes.set_title(figure_text(column), fontsize=8)
    return figure


def training_figure(steps: Sequence[StepRecord]) -> Figure:
    """Draws loss and learning rate by step; a long run gets a running mean of the loss."""
    x = [step.step for step in steps]
    loss = np.array([step.loss for step in steps])
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[2.2, 1])
    many = len(steps) > DOTTED
    top.plot(x, loss, color=PALETTE[0], linewidth=0.8 if many else 1.8, alpha=0.35 if many else 1)
    if many:
        width = max(5, len(steps) // 60)
        mean = _running_mean(loss, width)
        top.plot(x, mean, color=PALETTE[0], linewidth=2, label=f"mean of {width} steps")
        top.legend(loc="upper right", frameon=False)
    top.set(ylabel="loss")
    bottom.plot(x, [step.lr for step in steps], color=PALETTE[1], linewidth=1.8)
    bottom.set(ylabel="learning rate", xlabel="step", xlim=(0, max(x) + 1))
    bottom.set_ylim(bottom=0)
    for axes in (top, bottom):
        axes.grid(color="#E3E3E3", linewidth=0.7)
    return _clean(figure)


def comparison_figure(runs: Mapping[str, Mapping[str, float | None]]) -> Figure:
    """Draws bars of overall, many, medium, few and mean accuracy (percent) for several runs."""
    metrics = ("overall", "many", "medium", "few", "mean")
    figure = Figure(figsize=(9.6, 3.6 + 0.22 * len(runs)), layout="constrained")
    axes = figure.subplots()
    width = 0.82 / len(runs)
    for i, (given, summary) in enumerate(runs.items()):
        name = figure_text(given)
        values = [summary[metric] for metric in metrics]
        bars = axes.bar(
            np.arange(len(metrics)) + (i - (len(runs) - 1) / 2) * width,
            [value or 0 for value in values],
            width * 0.94,
            label=f" {name}" if name.startswith("_") else name,  # else the legend lacks it
            color=PALETTE[i % len(PALETTE)],
            hatch=("", "//", "..")[i // len(PALETTE) % 3],
            edgecolor="white",
        )
        if len(runs) <= 5:
            texts = ["–" if value is None else f"{value:.1f}" for value in values]
            axes.bar_label(bars, texts, fontsize=8, padding=2)
    axes.set(ylabel="accuracy (%)", ylim=(0, 105))
    axes.set_xticks(range(len(metrics)), metrics)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.7)
    figure.legend(loc="outside lower left", frameon=False, ncols=2)
    return _clean(figure)


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
    return _clean(figure)


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
        axes.set_xticks(range(len(cells)), list(map(figure_text, cells)), **turned)
        axes.set(title=figure_text(name), xlim=(-0.6, len(cells) - 0.4))
        axes.set_xlabel(axis if joined else "")
        axes.grid(axis="y", color="#DDDDDD", linewidth=0.7)
    all_axes[0].set_ylabel("accuracy (%)")
    handles, labels = all_axes[0].get_legend_handles_labels()
    figure.suptitle(figure_text(title))
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return _clean(figure)


def _name_classes(axes: Axes, names: Sequence[str]) -> None:
    """Writes the names of the classes below the axis, or only their number if they are many."""
    if len(names) > NAMED:
        axes.set_xlabel(f"{len(names):,} classes, from the most training images to the fewest")
        return
    axes.set_xticks(range(len(names)), list(map(figure_text, names)), rotation=35, ha="right")


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


def _running_mean(values: Float[np.ndarray, " n"], width: int) -> Float[np.ndarray, " n"]:
    """Returns the mean of up to `width` neighbours of each value; NaN values are left out."""
    window = np.ones(width)
    known = np.isfinite(values)
    total = np.convolve(np.where(known, values, 0.0), window, "same")
    number = np.convolve(known.astype(np.float64), window, "same")
    return np.divide(total, number, out=np.full(len(values), np.nan), where=number > 0.5)


def _clean(figure: Figure) -> Figure:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    return figure
