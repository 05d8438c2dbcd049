"""Results of the bench as a file, and the comparison of two of them, pair by pair."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from lift_jax.errors import UserError, shown
from lift_jax.storage import atomic
from lift_jax.storage.reading import read_json

VERSION = 1
REMEDY = "Give a file that `lift-jax bench --json=FILE` wrote."

Seconds = dict[str, list[float]]  # by what was timed: the time of each round or image


@dataclass(frozen=True)
class Result:
    """A result of the bench.

    Attributes:
        about: what was timed, and on which device and software.
        seconds: the times by what was timed; the i-th times of two results belong together.
    """

    about: Mapping[str, str]
    seconds: Mapping[str, Sequence[float]]


def described(only: str, **more: object) -> dict[str, str]:
    """Returns what a result is about."""
    device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    software = {"jax": jax.__version__}
    return {"only": only, "device": device} | software | {k: str(v) for k, v in more.items()}


def write(path: Path, result: Result) -> None:
    """Writes a result as JSON."""
    atomic.write_json(path, {"version": VERSION} | asdict(result))


def read(path: Path) -> Result:
    """Returns the result in a file. Raises UserError if it is not one that the bench wrote."""
    content = read_json(path, remedy=REMEDY)
    about, seconds = content.get("about"), content.get("seconds")
    if content.get("version") != VERSION or not isinstance(about, dict) or not _times(seconds):
        raise UserError(
            f"{path}: expected a result of the bench, version {VERSION}; found "
            f"{shown(content)[:80]}. {REMEDY}"
        )
    return Result(about, seconds)


def _times(seconds: Any) -> bool:
    """Returns True for times by name."""
    if not isinstance(seconds, dict) or not seconds:
        return False
    lists = [each for each in seconds.values() if isinstance(each, list) and each]
    times = [time for each in lists for time in each]
    numbers = all(isinstance(time, int | float) and time > 0 for time in times)
    return len(lists) == len(seconds) and numbers


def compare(now: Result, then: Result, source: Path, console: Console) -> dict[str, float]:
    """Prints the ratios of the times of two results, pair by pair; returns the median ratios.

    `source` is the file of the result `then`. A line names each other difference between the two.
    Raises UserError unless both timed the same things equally often.
    """
    missing = sorted(now.seconds.keys() ^ then.seconds.keys())
    if now.about["only"] != then.about.get("only") or missing:
        raise UserError(
            f"{source} (--compare) timed {', '.join(then.seconds)}; this bench timed "
            f"{', '.join(now.seconds)}. Time the same (--only) with both."
        )
    for name, times in now.seconds.items():
        if len(times) != len(then.seconds[name]):
            raise UserError(
                f"{source} (--compare) has {len(then.seconds[name])} times of {name}, and this "
                f"bench {len(times)}: they make no pairs. Give both the same --steps."
            )
    for key in sorted(now.about.keys() | then.about.keys()):
        here, there = (result.about.get(key, "none") for result in (now, then))
        if here != there:
            console.print(f"The two differ: {key} is {here} here, {there} in {source}.")
    table = Table(title=f"Times here, divided by those of {source}", title_justify="left")
    for column in ("", "here, ms", "there, ms", "ratio", "smallest", "largest"):
        table.add_column(column, justify="right" if column else "left")
    medians = {}
    for name, times in now.seconds.items():
        here, there = np.array(times), np.array(then.seconds[name])
        ratios = here / there
        medians[name] = float(np.median(ratios))
        means = (f"{1000 * each.mean():.2f}" for each in (here, there))
        shares = (f"{each:.3f}" for each in (medians[name], ratios.min(), ratios.max()))
        table.add_row(name, *means, *shares)
    console.print(table)
    return medians
