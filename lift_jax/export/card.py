"""The model card of an exported folder: README.md, as the Hugging Face hub shows it."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import EvalResult, ModelCardData
from markupsafe import Markup

from lift_jax.errors import UserError
from lift_jax.evaluation import metrics
from lift_jax.export import rendered
from lift_jax.export.deployed import Deployed
from lift_jax.export.licences import on_the_hub
from lift_jax.reports.page import number
from lift_jax.runs import finished_run
from lift_jax.runs.kept.result_files import METRICS
from lift_jax.runs.weights import export
from lift_jax.settings import words
from lift_jax.storage import atomic
from lift_jax.weights.names.hub import NAMES

NAME, TEMPLATE = "README.md", "card.md"
SHOWN = 60  # classes that are listed
COLUMNS = ("overall", "mean", *metrics.GROUPS)
LIBRARIES = {"huggingface": "transformers", "onnx": "onnx"}  # of others it is this one


def write(deployed: Deployed, to: Path, kind: str) -> None:
    """Writes the model card of a run, exported in a format, to a folder.

    Raises DiskError if it cannot be written.
    """
    s, about = deployed.found.settings, deployed.about
    tested = tested_run(deployed.run)
    results, labels = (tested.results, tested.labels) if tested else ({}, {})
    terms = on_the_hub(about["licence_of_weights"])
    data = ModelCardData(
        license=terms["license"],
        license_name=terms.get("license_name"),
        library_name=LIBRARIES.get(kind, "lift_jax"),
        pipeline_tag="image-classification",
        base_model=on_hub(about["backbone"]),
        tags=tags(s.tuner.names, s.loss.name),
        metrics=["accuracy"] if results else None,
        model_name=about["title"],
        eval_results=evaluated(results, labels, s.data.name),
    )
    values = {"unknown_score": None, "unknown_below": None, **about} | {
        "kind": kind,
        "data": s.data.name,
        "head": Markup(data.to_yaml().strip()),
        "method": s.label,
        "training": words.training(s.written),
        "columns": COLUMNS,
        "results": [
            [labels[key], *(number(values[column]) for column in COLUMNS)]
            for key, values in results.items()
        ],
        "groups": groups_of(deployed.run, tested),
        "listed": about["class_names"][:SHOWN],
        "more": len(about["class_names"]) - SHOWN,
        "size": f"{about['resolution']} x {about['resolution']}",
    }
    rendered.write_card(to / NAME, TEMPLATE, values)


def tested_run(run: Path) -> finished_run.Run | None:
    """Returns the contents of a run folder; None for one that is not tested.

    None also, with a warning, for results that are damaged.
    """
    if not (run / METRICS).exists():
        return None
    try:
        return finished_run.load(run)
    except UserError as error:
        atomic.warn(f"{NAME} shows no results of the run. {error}")
        return None


def groups_of(run: Path, tested: finished_run.Run | None) -> list[list[str]]:
    """Returns classes and training images of many-, medium- and few-shot classes, as texts."""
    counts = np.array(export.read_checkpoint(run)[1]["data_summary"]["counts"])
    groups = metrics.groups(counts)
    if tested:  # some data sets are divided by other counts
        groups = {name: np.array(tested.groups) == name for name in metrics.GROUPS}
    rows = [(f"{name}-shot", counts[members]) for name, members in groups.items()]
    return [[name, f"{len(n):,}", f"{n.sum():,}"] for name, n in (*rows, ("all", counts))]


def on_hub(backbone: str) -> str | None:
    """Returns the name on the hub of a backbone, None for others."""
    name = backbone.partition("@")[0]
    elsewhere = re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) and not Path(backbone).exists()
    return NAMES.get(name, name if elsewhere else None)


def tags(tuners: tuple[str, ...], loss: str) -> list[str]:
    """Returns the words by which the hub finds the model."""
    return ["image-classification", "long-tailed-recognition", "lift", "jax", *tuners, loss]


def evaluated(
    results: Mapping[str, Mapping[str, Any]], labels: Mapping[str, str], data: str
) -> list[EvalResult] | None:
    """Returns results in the form of the hub."""
    return [
        EvalResult(
            "image-classification", data, data, "accuracy", values[column],
            metric_name=f"{labels[key]}, {column} (%)", dataset_split="test",
        )
        for key, values in results.items()
        for column in ("overall", "mean")
        if values[column] is not None
    ] or None  # fmt: skip
