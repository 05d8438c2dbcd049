"""Share of time that training waits for data, in two small runs."""

import io
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

from rich.console import Console

from lift_jax import settings
from lift_jax.runs import log
from lift_jax.runs.train_and_test import train_and_test


def measure(console: Console) -> dict[str, float]:
    """Trains two configs for 52 steps; prints and returns the share of time spent waiting for data.

    The share is that of the last 20 steps, by config.
    """
    shares = {}
    for name, argument, epochs in (("demo", "", 4), ("inat", "debug", 26)):
        config = settings.load(name, argument)
        config.train.epochs = epochs
        config.checkpoint.every_steps = 10**6
        with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
            found = train_and_test(settings.parse(config), folder)
            read = log.read_log(Path(folder) / log.LOG)
        title = f"{name}:{argument}" if argument else name
        shares[title] = read[-1].wait
        console.print(
            f"{title}: {shares[title]:.1%} of the step's time waiting for data (the last "
            f"20 of {len(read)} steps; {read[-1].images_per_second:,.0f} images/s, a network of "
            f"{found['frozen_params']:,} weights)."
        )
    return shares
