"""A look at a data set before training: its classes, its images, and the views of the model.

Writes classes.csv and classes.png (images by class), findings.csv (images that cannot be read or
are there twice), kinds.csv (images that are not ordinary RGB) and views.png (crops of training and
of testing).
"""

from pathlib import Path

from rich.console import Console

from lift_jax.data import datasets, inspect
from lift_jax.reports.data_set import classes, crops, images
from lift_jax.settings.schema import Settings


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
    console.print(classes.splits_table(data, splits))
    console.print(classes.groups_table(data, splits))
    for note in data.notes:
        console.print(note)
    classes.print_prompts(data, settings, console)
    classes.print_empty(data, splits, console)
    classes.write(data, splits, workdir)
    findings: list[inspect.Finding] = []
    if read:
        summaries = images.read_all(splits, console)
        console.print(images.sizes_table(summaries))
        images.show_traits(summaries, splits, settings.data.exif, workdir, console)
        findings = inspect.findings(splits, summaries)
        images.print_findings(findings, data, splits, console)
    images.print_faults(data, console)
    if read or data.faults:
        images.write_findings(findings, data, splits, workdir)
    resolution = crops.preview_resolution(settings.model, console)
    crops.draw(settings, data, resolution, workdir)
    console.print(f"Written: {workdir}")
    if stopping := [fault.kind for fault in data.faults if fault.stops]:
        console.print(f"Training would stop: {', '.join(dict.fromkeys(stopping))} (see above).")
    return findings
