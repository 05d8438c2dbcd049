"""The figure of training: loss and learning rate by step."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from lift_jax.reports.figures.look import DOTTED, PALETTE, running_mean, without_box
from lift_jax.training.monitor import StepRecord


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
        mean = running_mean(loss, width)
        top.plot(x, mean, color=PALETTE[0], linewidth=2, label=f"mean of {width} steps")
        top.legend(loc="upper right", frameon=False)
    top.set(ylabel="loss")
    bottom.plot(x, [step.lr for step in steps], color=PALETTE[1], linewidth=1.8)
    bottom.set(ylabel="learning rate", xlabel="step", xlim=(0, max(x) + 1))
    bottom.set_ylim(bottom=0)
    for axes in (top, bottom):
        axes.grid(color="#E3E3E3", linewidth=0.7)
    return without_box(figure)
