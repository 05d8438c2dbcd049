"""The figures on consistency: how alike classes are, and how far images lie from their class."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lift_jax.output.plain import beside, figure_text
from lift_jax.reports.figures.look import PALETTE

NAMED = 20  # most classes that are named beside a map
LONGEST = 24  # letters of the name of a state or run
DOTS = 200  # most classes that are drawn one by one in a panel
STYLES = {"training": (PALETTE[0], "o", "-"), "test": (PALETTE[1], "^", "--")}
SIDES = (-0.16, 0.16)  # places of the marks of training and test images

# Mean distances of training and test images of each class, by the state of the model.
Distances = Mapping[str, tuple[Float[np.ndarray, " c"], Float[np.ndarray, " c"]]]


def similarity_figure(
    maps: Mapping[str, Float[np.ndarray, "b b"]], sizes: Mapping[str, int], names: Sequence[str]
) -> Figure:
    """Draws the cosines between class means as a map for each state, on one scale of colours.

    Args:
        maps: cosines by the title of the map, classes by frequency.
        sizes: number of classes of each group, in the same order.
        names: names of the classes.
    """
    classes = len(names)
    figure = Figure(figsize=(1.2 + 4.3 * len(maps), 4.6), layout="constrained")
    all_axes = figure.subplots(1, len(maps), squeeze=False)[0]
    low, high = (pick([float(pick(each)) for each in maps.values()]) for pick in (np.min, np.max))
    drawn = None
    for axes, (title, values) in zip(all_axes, maps.items(), strict=True):
        extent = (-0.5, classes - 0.5, classes - 0.5, -0.5)
        drawn = axes.imshow(
            values, cmap="cividis", vmin=low, vmax=high, extent=extent, interpolation="nearest"
        )
        axes.set_title(_short(title))
        edges = np.cumsum(list(sizes.values()))
        for edge in edges[:-1]:
            if 0 < edge < classes:
                axes.axhline(edge - 0.5, color="white", linewidth=1.2)
                axes.axvline(edge - 0.5, color="white", linewidth=1.2)
        centres = [edge - (size + 1) / 2 for edge, size in zip(edges, sizes.values(), strict=True)]
        known = [i for i, size in enumerate(sizes.values()) if size]
        labels = [list(sizes)[i] for i in known]
        axes.set_xticks([centres[i] for i in known], labels)
        axes.tick_params(length=0)
        if classes <= NAMED:
            axes.set_yticks(range(classes), list(map(beside, names)), fontsize=8)
        else:
            axes.set_yticks([centres[i] for i in known], labels)
    if drawn is not None:
        figure.colorbar(drawn, ax=list(all_axes), label="cosine of the class means", shrink=0.9)
    return figure


def distance_figure(distances: Distances, groups: Sequence[str], shown: Sequence[str]) -> Figure:
    """Draws the distances of training and test images to their class, a panel for each group.

    Args:
        distances: by the state of the model, in order, NaN for classes without one.
        groups: group of each class.
        shown: the groups that get a panel.
    """
    width = max(9.6, 1.0 + 1.1 * len(distances) * len(shown))
    figure = Figure(figsize=(width, 3.6), layout="constrained")
    all_axes = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    places = np.arange(len(distances))
    rng = np.random.default_rng(0)  # spreads the dots
    for axes, group in zip(all_axes, shown, strict=True):
        members = np.array([each == group for each in groups])
        both = []
        for kind, (name, (colour, marker, line)) in enumerate(STYLES.items()):
            values = np.array([each[kind][members] for each in distances.values()])
            values = values[:, np.isfinite(values).all(axis=0)]
            side = SIDES[kind]
            few = values[:, :: max(1, -(-values.shape[1] // DOTS))]
            for place, own in zip(places, few, strict=True):
                spread = place + side + rng.uniform(-0.06, 0.06, len(own))
                axes.scatter(spread, own, 12, color=colour, alpha=0.35, linewidth=0)
            means = values.mean(axis=1)
            axes.plot(
                places + side, means, color=colour, marker=marker, linestyle=line, linewidth=1.8,
                markersize=8, markeredgecolor="white", label=f"{name} images",
            )  # fmt: skip
            both.append(means)
        _write_means(axes, places, np.array(both))
        count = int(members.sum())
        title = f"{group} ({count:,} class{'es' * (count != 1)})"
        axes.set_title(title, color="#444444", fontsize=11)
        turned = {"rotation": 20, "ha": "right"} if len(places) > 2 else {}
        axes.set_xticks(places, [_short(name) for name in distances], **turned)
        axes.set_xlim(-0.6, len(distances) - 0.4)
        axes.grid(axis="y", color="#E3E3E3", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
    all_axes[0].set(ylabel="distance to the class (1 − cosine)")
    all_axes[0].set_ylim(bottom=0)
    handles, labels = all_axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=2, frameon=False)
    return figure


def _write_means(
    axes: Axes, places: Float[np.ndarray, " s"], means: Float[np.ndarray, "2 s"]
) -> None:
    """Writes the mean distances beside their marks: the larger above, the smaller below."""
    for place, values in zip(places, means.T, strict=True):
        for side, value in zip(SIDES, values, strict=True):
            above = value == values.max()
            axes.annotate(
                f"{value:.2f}", (place + side, value), (0, 9 if above else -9), fontsize=9,
                textcoords="offset points", ha="center", va="bottom" if above else "top",
                bbox={"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.5},
            )  # fmt: skip


def _short(name: str) -> str:
    """Returns the last `LONGEST` letters of a name, because no more fit."""
    name = figure_text(name)
    return name if len(name) <= LONGEST else f"…{name[1 - LONGEST :]}"
