"""The look that figures share: colours, marks, names in legends, and means of many values.

Colours are of the Okabe-Ito palette, which colour-blind readers can tell apart; markers and line
styles differ as well.
"""

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from lift_jax.output.plain import figure_text

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
DOTTED = 60  # most classes or steps that are drawn one by one; more get a running mean


def in_legend(name: str) -> str:
    """Returns a name as a legend shows it; matplotlib would leave out one that begins with "_"."""
    name = figure_text(name)
    return f" {name}" if name.startswith("_") else name


def running_mean(values: Float[np.ndarray, " n"], width: int) -> Float[np.ndarray, " n"]:
    """Returns the mean of up to `width` neighbours of each value; NaN values are left out."""
    window = np.ones(width)
    known = np.isfinite(values)
    total = np.convolve(np.where(known, values, 0.0), window, "same")
    number = np.convolve(known.astype(np.float64), window, "same")
    return np.divide(total, number, out=np.full(len(values), np.nan), where=number > 0.5)


def without_box(figure: Figure) -> Figure:
    """Takes the upper and the right line from the box of all axes; returns the figure."""
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    return figure
