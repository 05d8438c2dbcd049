"""The classes of a data set: their images in each split, and the texts that describe them."""

from pathlib import Path

import numpy as np
from jaxtyping import Int
from rich.console import Console
from rich.table import Table

from lift_jax.data.names.meaning import meaning
from lift_jax.data.types import Dataset, Split
from lift_jax.errors import UserError
from lift_jax.evaluation import metrics
from lift_jax.reports import figure_file
from lift_jax.reports.figures.by_class import frequency_figure
from lift_jax.settings.schema import Settings
from lift_jax.storage.formats.csv_files import write_csv
from lift_jax.weights import load


def splits_table(data: Dataset, splits: dict[str, Split]) -> Table:
    """Returns a table of the images and the imbalance of each split."""
    table = Table(title=f"{len(data.class_names):,} classes", title_justify="left")
    for name in ("", "images", "classes", "largest", "median", "smallest", "imbalance"):
        table.add_column(name, justify="left" if name == "" else "right")
    for name, split in splits.items():
        counts = _counts(data, split)
        present = counts[counts > 0]
        table.add_row(
            name, f"{len(split):,}", f"{len(present):,}", f"{counts.max():,}",
            f"{np.median(counts):,.0f}", f"{counts.min():,}",
            f"{present.max() / present.min():.1f}" if len(present) else "",
        )  # fmt: skip
    return table


def groups_table(data: Dataset, splits: dict[str, Split]) -> Table:
    """Returns a table of the many-, medium- and few-shot classes and their images in each split."""
    meaning = {"many": "over 100", "medium": "20 to 100", "few": "under 20"}
    table = Table(title="By training images of a class", title_justify="left")
    for name in ("", "training images", "classes", *(f"in {name}" for name in splits)):
        table.add_column(name, justify="left" if name in ("", "training images") else "right")
    for group, members in metrics.groups(data.group_counts).items():
        images = (f"{members[split.labels].sum():,}" for split in splits.values())
        table.add_row(group, meaning[group], f"{members.sum():,}", *images)
    return table


def print_prompts(data: Dataset, settings: Settings, console: Console) -> None:
    """Prints some texts of the classes, and what they leave out of the names."""
    found = meaning(data, settings.data.clean_names, settings.head)
    try:
        lines = found.lines(load.sizes(settings.model.backbone).text)
    except UserError:  # the backbone is not on this machine, and may read any language
        lines = found.notes
    for line in lines:
        console.print(line)


def print_empty(data: Dataset, splits: dict[str, Split], console: Console) -> None:
    """Prints the classes that have no image in a split."""
    for name, split in splits.items():
        counts = _counts(data, split)
        if absent := [data.class_names[c] for c in np.flatnonzero(counts == 0)]:
            shown = ", ".join(absent[:10]) + (", ..." if len(absent) > 10 else "")
            console.print(f"No image in {name} ({len(absent):,} classes): {shown}")


def write(data: Dataset, splits: dict[str, Split], workdir: Path) -> None:
    """Writes classes.csv and classes.png."""
    counts = {name: _counts(data, split) for name, split in splits.items()}
    group = metrics.group_of_each(data.group_counts)
    write_csv(
        workdir / "classes.csv",
        ("class", "name", "group", *counts),
        ((c, name, group[c], *(int(n[c]) for n in counts.values()))
         for c, name in enumerate(data.class_names)),
    )  # fmt: skip
    figure = frequency_figure(counts, group, data.class_names)
    figure_file.write(figure, workdir / "classes.png")


def _counts(data: Dataset, split: Split) -> Int[np.ndarray, " c"]:
    """Returns the images of each class in a split."""
    return np.bincount(split.labels, minlength=len(data.class_names))
