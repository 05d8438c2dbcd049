"""The images of a data set: their sizes and kinds, and what is wrong with them."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from lift_jax.data import inspect
from lift_jax.data.images import traits
from lift_jax.data.types import Dataset, Split
from lift_jax.storage.formats.csv_files import write_csv

SHOWN = 5  # findings of each kind that are printed; all are in findings.csv


class Speed(ProgressColumn):
    """A column with the images per second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:,.0f} images/s")


def read_all(splits: dict[str, Split], console: Console) -> dict[str, list[inspect.ImageSummary]]:
    """Reads every image of every split behind a progress bar; returns their summaries by split."""
    threads = 2 * (os.cpu_count() or 1)  # some wait for the disk while others decode
    columns = (
        TextColumn("Reading {task.description}"), BarColumn(), MofNCompleteColumn(),
        Speed(), TimeRemainingColumn(),
    )  # fmt: skip
    summaries: dict[str, list[inspect.ImageSummary]] = {}
    with Progress(*columns, console=console, transient=True) as progress:
        for name, split in splits.items():
            summaries[name] = []
            task = progress.add_task(name, total=len(split))
            for one in inspect.scan(split.images, threads):
                summaries[name].append(one)
                progress.advance(task)
    return summaries


def sizes_table(summaries: dict[str, list[inspect.ImageSummary]]) -> Table:
    """Returns a table of short and long sides in pixels."""
    table = Table(title="Pixels", title_justify="left")
    for name in ("", "side", "smallest", "5 %", "median", "95 %", "largest"):
        table.add_column(name, justify="left" if name in ("", "side") else "right")
    for name, images in summaries.items():
        sides = np.array([(one.height, one.width) for one in images if not one.fault])
        if not sides.size:
            continue
        for side, values in (("short", sides.min(axis=1)), ("long", sides.max(axis=1))):
            marks = np.percentile(values, (0, 5, 50, 95, 100), method="nearest")
            table.add_row(name, side, *(f"{mark:,.0f}" for mark in marks))
    return table


def show_traits(
    summaries: dict[str, list[inspect.ImageSummary]], splits: dict[str, Split], upright: bool,
    workdir: Path, console: Console,
) -> None:  # fmt: skip
    """Prints the kinds of images that are not ordinary, and writes kinds.csv, a line an image.

    Nothing is printed or written for a data set of ordinary images.
    """
    rows = [
        (trait, name, splits[name].images.name(i))
        for name, images in summaries.items()
        for i, one in enumerate(images)
        for trait in one.traits
    ]
    if not rows:
        return
    table = Table(title="Kinds of images", title_justify="left")
    for name in ("", "images", "read as", "first"):
        table.add_column(name, justify="right" if name == "images" else "left", overflow="fold")
    for trait, count in Counter(trait for trait, *_ in rows).most_common():
        first = next(path for each, _, path in rows if each == trait)
        table.add_row(trait, f"{count:,}", traits.meaning(trait, upright), first)
    console.print(table)
    write_csv(workdir / "kinds.csv", ("kind", "split", "path"), rows)


def location(data: Dataset, splits: dict[str, Split], image: tuple[str, int]) -> str:
    """Returns the split, name and class of an image, which is given by its split and number."""
    name, i = image
    split = splits[name]
    return f"{name}: {split.images.name(i)} ({data.class_names[split.labels[i]]})"


def print_findings(
    findings: list[inspect.Finding], data: Dataset, splits: dict[str, Split], console: Console
) -> None:
    """Prints the number of findings of each kind and the first of them."""
    if not findings:
        console.print("Every image can be read, and none is there twice.")
    for kind in dict.fromkeys(one.kind for one in findings):
        of_kind = [one for one in findings if one.kind == kind]
        console.print(f"{kind}: {sum(len(one.images) for one in of_kind):,} images")
        _print_first(
            [
                one.cause or " = ".join(location(data, splits, each) for each in one.images[:4])
                for one in of_kind
            ],
            console,
        )


def print_faults(data: Dataset, console: Console) -> None:
    """Prints the faults of lists and folders, the first of each kind."""
    for kind in dict.fromkeys(fault.kind for fault in data.faults):
        causes = [fault.cause for fault in data.faults if fault.kind == kind]
        console.print(f"{kind}: {len(causes):,}")
        _print_first(causes, console)


def _print_first(lines: Sequence[str], console: Console) -> None:
    """Prints the first lines of a kind, and how many more are in findings.csv."""
    for line in lines[:SHOWN]:
        console.print(f"  {line}", soft_wrap=True)
    if len(lines) > SHOWN:
        console.print(f"  and {len(lines) - SHOWN:,} more, in findings.csv")


def write_findings(
    findings: list[inspect.Finding], data: Dataset, splits: dict[str, Split], workdir: Path
) -> None:
    """Writes findings.csv: a line an image, with one number for images that belong together.

    Faults of lists and folders follow, a line each.
    """
    images = [
        (number, one.kind, name, splits[name].images.name(i),
         data.class_names[splits[name].labels[i]], one.cause)
        for number, one in enumerate(findings, 1) for name, i in one.images
    ]  # fmt: skip
    faults = [
        (number, fault.kind, "", fault.path, "", fault.cause)
        for number, fault in enumerate(data.faults, len(findings) + 1)
    ]
    write_csv(
        workdir / "findings.csv",
        ("finding", "kind", "split", "path", "class", "cause"),
        [*images, *faults],
    )
