"""The comparison of several runs: an HTML page with figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lift_jax.reports import page
from lift_jax.reports.figures.runs import comparison_figure
from lift_jax.reports.parts import changes_part, consistency_comparison
from lift_jax.reports.report import NOTE, headline, load, name_of, results_table
from lift_jax.runs.finished_run import Run
from lift_jax.storage import disk, lock
from lift_jax.storage.addresses import is_remote
from lift_jax.storage.names import expand_user


def compare(workdirs: Sequence[str | Path], out: str | Path, addresses: Sequence[str] = ()) -> Path:
    """Writes report_compare.html and .png of several runs into `out`; returns the page's path.

    The bars show the headline result of each run. If `workdirs` are local copies (`runs.remote`),
    `addresses` are where the runs are, from which they have their names. Raises UserError if a file
    of a run is missing or broken, or `out` cannot be made.
    """
    places = [
        place if is_remote(place) else str(expand_user(place).resolve())
        for place in map(str, addresses or workdirs)
    ]
    names = [name_of(place) for place in places]
    if len({*names}) < len(names):
        names = places
    runs = {name: load(workdir) for name, workdir in zip(names, workdirs, strict=True)}
    headlines = {name: headline(run)[0] for name, run in runs.items()}
    bars = {
        f"{name}: {run.labels[headlines[name]]}": run.results[headlines[name]]
        for name, run in runs.items()
    }
    out = disk.make_folder(expand_user(out), "--out")
    with lock.one_writer(out), disk.disk_errors(out):
        return _write_comparison(out, runs, headlines, bars)


def _write_comparison(
    out: Path, runs: Mapping[str, Run], headlines: Mapping[str, str],
    bars: Mapping[str, Mapping[str, Any]],
) -> Path:  # fmt: skip
    """Writes the page of several runs and its figures; returns the page's path."""
    drawn, path = comparison_figure(bars), out / "report_compare.png"
    frequency, name = changes_part.overlaid(runs, headlines), out / "report_compare_frequency.png"
    changes, others = changes_part.between(runs, headlines)
    rows = [
        (name, run.title, f"{run.metrics['tuned_params']:,} tuned",
         page.duration(run.metrics["seconds"]))
        for name, run in runs.items()
    ]  # fmt: skip
    return page.write(
        out / "report_compare.html", "compare.html", title="Comparison",
        heading=f"{len(runs)} runs", subtitle="Top-1 accuracy in %", results=results_table(runs),
        explanation=NOTE, figure=page.image(drawn, path, "Accuracy of the runs"), runs=rows,
        frequency=page.image(frequency, name, "Accuracy of the runs by number of training images"),
        changes=changes, other_classes=others,
        consistency=consistency_comparison.part(runs, out),
    )  # fmt: skip
