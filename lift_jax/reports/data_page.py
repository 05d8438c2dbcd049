"""A look at a data set before training: its contents, its faults, and the views of the model.

Writes classes.csv and classes.png (images by class), findings.csv (images that cannot be read or
are there twice), kinds.csv (images that are not ordinary RGB) and views.png (crops of training and
of testing).
"""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.filesize import decimal
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

from lift_jax.data import datasets, inspect, prepare, prepared
from lift_jax.data.images import traits, views
from lift_jax.data.images.decode import Picture
from lift_jax.data.names.meaning import meaning
from lift_jax.data.types import Dataset, EncodedImages, Split
from lift_jax.errors import UserError
from lift_jax.evaluation import metrics
from lift_jax.evaluation.evaluator import margin
from lift_jax.reports import figure_file, figures
from lift_jax.settings.groups.model import ModelSettings
from lift_jax.settings.schema import Settings
from lift_jax.storage.csv_files import write_csv
from lift_jax.weights import load

PIXELS = 224  # resolution of the views if the backbone is not on this machine
SHOWN = 5  # findings of each kind that are printed; all are in findings.csv


def show_data(
    settings: Settings, workdir: Path, read: bool, console: Console
) -> list[inspect.Finding]:
    """Prints and writes everything about a data set; returns the findings.

    Raises UserError as `datasets.load` does.
    """
    data = datasets.load(settings.data, settings.seed, tolerant=True)
    splits = {
        name: split
        for name, split in (("train", data.train), ("val", data.val), ("test", data.test))
        if split is not None
    }
    console.print(splits_table(data, splits))
    console.print(groups_table(data, splits))
    for note in data.notes:
        console.print(note)
    print_prompts(data, settings, console)
    print_empty_classes(data, splits, console)
    write_classes(data, splits, workdir)
    findings: list[inspect.Finding] = []
    if read:
        summaries = read_all(splits, console)
        console.print(sizes_table(summaries))
        show_traits(summaries, splits, settings.data.exif, workdir, console)
        findings = inspect.findings(splits, summaries)
        print_findings(findings, data, splits, console)
    print_faults(data, console)
    if read or data.faults:
        write_findings(findings, data, splits, workdir)
    resolution = preview_resolution(settings.model, console)
    draw_views(settings, data, resolution, workdir)
    console.print(f"Written: {workdir}")
    if stopping := [fault.kind for fault in data.faults if fault.stops]:
        console.print(f"Training would stop: {', '.join(dict.fromkeys(stopping))} (see above).")
    return findings


# --- splits and classes ---


def splits_table(data: Dataset, splits: dict[str, Split]) -> Table:
    """Returns a table of the images and the imbalance of each split."""
    table = Table(title=f"{len(data.class_names):,} classes", title_justify="left")
    for name in ("", "images", "classes", "largest", "median", "smallest", "imbalance"):
        table.add_column(name, justify="left" if name == "" else "right")
    for name, split in splits.items():
        counts = np.bincount(split.labels, minlength=len(data.class_names))
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


def print_empty_classes(data: Dataset, splits: dict[str, Split], console: Console) -> None:
    """Prints the classes that have no image in a split."""
    for name, split in splits.items():
        counts = np.bincount(split.labels, minlength=len(data.class_names))
        if absent := [data.class_names[c] for c in np.flatnonzero(counts == 0)]:
            shown = ", ".join(absent[:10]) + (", ..." if len(absent) > 10 else "")
            line = f"No image in {name} ({len(absent):,} classes): {shown}"
            console.print(line)


def write_classes(data: Dataset, splits: dict[str, Split], workdir: Path) -> None:
    """Writes classes.csv and classes.png."""
    counts = {
        name: np.bincount(split.labels, minlength=len(data.class_names))
        for name, split in splits.items()
    }
    group = metrics.group_of_each(data.group_counts)
    write_csv(
        workdir / "classes.csv",
        ("class", "name", "group", *counts),
        ((c, name, group[c], *(int(n[c]) for n in counts.values()))
         for c, name in enumerate(data.class_names)),
    )  # fmt: skip
    figure = figures.frequency_figure(counts, group, data.class_names)
    figure_file.write(figure, workdir / "classes.png")


# --- every image ---


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
        count = sum(len(one.images) for one in of_kind)
        console.print(f"{kind}: {count:,} images")
        for one in of_kind[:SHOWN]:
            line = one.cause or " = ".join(
                location(data, splits, image) for image in one.images[:4]
            )
            console.print(f"  {line}", soft_wrap=True)
        if len(of_kind) > SHOWN:
            console.print(f"  and {len(of_kind) - SHOWN:,} more, in findings.csv")


def print_faults(data: Dataset, console: Console) -> None:
    """Prints the faults of lists and folders, the first of each kind."""
    for kind in dict.fromkeys(fault.kind for fault in data.faults):
        causes = [fault.cause for fault in data.faults if fault.kind == kind]
        console.print(f"{kind}: {len(causes):,}")
        for cause in causes[:SHOWN]:
            console.print(f"  {cause}", soft_wrap=True)
        if len(causes) > SHOWN:
            console.print(f"  and {len(causes) - SHOWN:,} more, in findings.csv")


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


# --- the views that the model sees ---


def preview_resolution(model: ModelSettings, console: Console) -> int:
    """Returns the resolution of the backbone, as far as it is known without a download."""
    if model.resolution:
        return model.resolution
    try:
        return load.sizes(model.backbone).vision.resolution
    except UserError:
        console.print(
            f"Views are drawn at {PIXELS} pixels: {model.backbone} is not on this machine. "
            "Give --config.model.resolution for another.",
        )
        return PIXELS


def draw_views(settings: Settings, data: Dataset, res: int, workdir: Path) -> None:
    """Writes views.png: images of large, middle and small classes as the model sees them."""
    c = settings.train
    training = views.TrainTransform(
        res=res, kind=c.augment, interpolation=c.interpolation, mda=c.mda, min_area=c.min_area,
        flip=c.flip, epochs=c.epochs,
    )  # fmt: skip
    plain = views.TestTransform(res, settings.test.interpolation)
    crops = views.FiveCrop(res, margin(settings.test.expand, res), settings.test.interpolation)
    epochs = sorted({0, c.epochs // 2, c.epochs - 1})
    columns = [
        "image",
        *(f"epoch {e + 1}" for e in epochs),
        "test",
        *(f"crop {k}" for k in "12345"),
    ]
    rows = {}
    for i in chosen_images(data):
        image = data.train.images[i]
        drawn = (training(image, np.random.default_rng((settings.seed, e, i)), e) for e in epochs)
        whole = Picture.of(image).pillow()
        whole.thumbnail((2 * res, 2 * res))
        title = f"{data.class_names[data.train.labels[i]]}\n{data.counts[data.train.labels[i]]:,}"
        rows[f"{title} images"] = [np.asarray(whole), *drawn, plain(image), *crops(image)]
    figure_file.write(figures.views_figure(rows, columns), workdir / "views.png")


def chosen_images(data: Dataset) -> Sequence[int]:
    """Returns the first readable image of up to six classes, from the largest to the smallest."""
    order = [c for c in np.argsort(-data.counts, kind="stable") if data.counts[c]]
    picked = np.unique(np.linspace(0, len(order) - 1, 6).round().astype(int))
    chosen = []
    for c in (order[position] for position in picked):
        for i in np.flatnonzero(data.train.labels == c).tolist():
            try:
                data.train.images[i]
            except UserError:
                continue
            chosen.append(i)
            break
    return chosen


# --- preparation ---


def prepare_split(settings: Settings, size: int, console: Console) -> None:
    """Writes the training split in the form that is read fastest, and prints how to use it."""
    if settings.data.prepared == "none":
        raise UserError("data.prepared is 'none', so nothing prepared would be used: leave it out.")
    split = datasets.load(settings.data, settings.seed).train
    if isinstance(split.images, prepared.PreparedImages):
        folder = Path(split.images.files[0]).parent
        prepared.check(folder)
        console.print(f"{folder} is complete and its checksums are right: training uses it.")
        return
    if not isinstance(split.images, EncodedImages):
        raise UserError(f"data.name={settings.data.name} has nothing to prepare: it is in memory.")
    size = size or prepare.default_size(preview_resolution(settings.model, console))
    target = settings.data.prepared
    target_folder = prepared.folder_of(split.images, target)
    console.print(
        f"{len(split):,} images to {target_folder}, short side at most {size} pixels.",
    )
    prepare.prepare(split, target_folder, size=size, workers=os.cpu_count() or 1, console=console)
    total = sum(path.stat().st_size for path in target_folder.iterdir())
    flag = f" Give --config.data.prepared={target} for it." if target else ""
    console.print(f"Prepared, {decimal(total)}. Training with this config uses it.{flag}")
