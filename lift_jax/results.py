"""The results of a run: what is measured on validation and test splits, written and shown."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict
from rich.console import Console
from rich.progress import track

from lift_jax import adjust, features, folder, log, metrics, steps
from lift_jax import mesh as mesh_lib
from lift_jax.build import Setup, some
from lift_jax.data import augment, bad, loader
from lift_jax.data.images import Dataset, Split
from lift_jax.errors import UserError
from lift_jax.evaluate import Counter, evaluate
from lift_jax.models import tree
from lift_jax.models.backbone import Classifier, Vision
from lift_jax.models.prompting import encoded
from lift_jax.models.tree import Tree
from lift_jax.state import State


def test(
    config: ConfigDict, setup: Setup, state: State | None, workdir: Path, console: Console
) -> dict:
    """Tests the zero-shot classifier, where there is one, and the tuned one, given a state.

    With test.adjust the tuned one also after post-hoc logit adjustment, whose strength is chosen on
    the validation split before the test split is read. Writes metrics.json and per_class.csv,
    prints the table, and returns what metrics.json holds.
    """
    c, data = config, setup.data
    trained = state is not None and (workdir / log.LOG).exists()
    steps_log = log.read_log(workdir / log.LOG) if trained else []  # a broken one is told first

    whole, crops, adjusted = {}, {}, None
    tuned, shifts = None, None
    if state is not None:
        tuned = classifier(setup, state)
        if c.test.adjust:
            assert data.val is not None  # `build` has checked
            val = plain_views(config, setup, state, data.val)
            trials = counter(setup, *tuned, val.start, adjust.shifts(adjust.TAUS, data.counts))
            batches = read(config, val, "Validating", console)
            validated = evaluate(batches, {"val": trials}, setup.mesh)
            tau, means = adjust.choose(validated["val"])
            console.print(
                f"Adjustment: tau {tau} is best on {len(data.val):,} validation images (mean over "
                f"the classes {means[str(tau)]:.2f} %; {means['0.0']:.2f} % without)."
            )
            adjusted = {"tau": tau, "val_mean": means}
            shifts = adjust.shifts((0.0, tau), data.counts)
    once = plain_views(config, setup, state, data.test)
    if setup.zero_shot is not None:
        whole["zero_shot"] = counter(setup, *setup.zero_shot, once.start)
    if tuned is not None:
        whole["test"] = counter(setup, *tuned, once.start, shifts)
        if c.test.tte:
            crops["test_tte"] = counter(setup, *tuned, 0, shifts)
    counts = evaluate(read(config, once, "Testing", console), whole, setup.mesh)
    if crops:
        views = ensemble(config, setup.vision)
        several = features.Reading(data.test, views, 0, c.data.workers)
        counts |= evaluate(read(config, several, "Testing", console), crops, setup.mesh)
    if adjusted is not None:
        for row in {"test", "test_tte"} & counts.keys():
            both = counts[row]
            counts |= {row: adjust.part(both, 0), f"{row}_adjusted": adjust.part(both, 1)}

    found = {row: metrics.summarise(counts[row], data.group_counts) if row in counts else None
             for row in folder.RESULTS} | {"adjustment": adjusted}  # fmt: skip
    sizes = log.parameter_counts(setup.parameters)
    found |= {
        "tuned_params": sizes["tuned"], "head_params": sizes["head"],
        "frozen_params": sizes["frozen"], "steps": int(state.step) if state is not None else 0,
        "seconds": steps_log[-1].seconds if steps_log else 0.0,
        "images_per_second": steps_log[-1].images_per_second if steps_log else 0.0,
    }  # fmt: skip
    missing = metrics.absent(next(iter(counts.values())))
    if missing:
        console.print(
            f"Warning: classes without a test image ({len(missing)} of {len(data.class_names)}), "
            f"left out of the class means: {some([data.class_names[i] for i in missing])}",
            markup=False,
        )
    if jax.process_index() == 0:
        folder.write_config(workdir, describe(config, setup))
        write_per_class(workdir, data, counts)
        log.write_json(workdir / folder.METRICS, found)
    bad.record(data, workdir, jax.process_index(), console, anew=("test",))
    show(found, config, console)
    return found


def ensemble(config: ConfigDict, vision: Vision) -> augment.View:
    """The crops of test-time ensembling that the config asks for."""
    return augment.ensemble(
        config.test.crops, vision.resolution, config.test.interpolation, expand=config.test.expand,
        views=config.test.views, min_area=config.train.min_area,
    )  # fmt: skip


def validator(config: ConfigDict, setup: Setup, console: Console) -> Callable[[State], float]:
    """A function from a state to the mean accuracy over the classes of the validation split, in
    percent. Raises UserError if there is none."""
    val = setup.data.val
    if val is None:
        raise UserError(
            "checkpoint.best chooses by a validation split, never by the test split, and "
            f"data.name={config.data.name!r} has none here. Give data.val_share=0.1, which holds "
            "that share of the training images out, or the data set's own (see test.adjust)."
        )

    def score(state: State) -> float:
        views = plain_views(config, setup, state, val)
        count = counter(setup, *classifier(setup, state), views.start)
        counts = evaluate(read(config, views, "Validating", console), {"val": count}, setup.mesh)
        mean = metrics.summarise(counts["val"], setup.data.group_counts)["mean"]
        assert mean is not None  # the split holds images
        return mean

    return score


def classifier(setup: Setup, state: State) -> tuple[nnx.GraphDef[Classifier], Tree]:
    """The tuned classifier, its texts encoded once where it has any."""
    leaves = state.tuned | setup.frozen
    return encoded(setup.graph, leaves, mesh_lib.replicated(setup.mesh))


def counter(
    setup: Setup,
    graph: nnx.GraphDef[Classifier],
    leaves: Tree,
    start: int,
    shifts: np.ndarray | None = None,
) -> Counter:
    return partial(steps.make_count(graph, setup.vision, setup.mesh, shifts, start), leaves)


def plain_views(
    config: ConfigDict, setup: Setup, state: State | None, split: Split
) -> features.Reading:
    """The split's plain views, as far up as all classifiers that are tested have in common."""
    if state is not None:
        model, paths = tree.merge(setup.graph, state.tuned | setup.frozen), state.tuned
    else:
        assert setup.zero_shot is not None  # `run` has checked
        model, paths = tree.merge(*setup.zero_shot), {}
    view = augment.TestTransform(setup.vision.resolution, config.test.interpolation)
    return setup.cache.read(model.visual, paths, split, view)


def read(
    config: ConfigDict, reading: features.Reading, doing: str, console: Console
) -> Iterable[Mapping[str, np.ndarray]]:
    """This process's batches of a split, behind a progress bar."""
    batches = loader.eval_batches(
        reading.split, reading.view, seed=config.seed, batch=config.test.batch,
        process=jax.process_index(), processes=jax.process_count(), workers=reading.workers,
    )  # fmt: skip
    return track(
        batches, doing, total=loader.steps_per_epoch(len(reading.split), config.test.batch),
        console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip


def describe(config: ConfigDict, setup: Setup) -> dict:
    """What a checkpoint belongs to, and what config.json says."""
    summary = {
        "class_names": list(setup.data.class_names),
        "counts": setup.data.counts.tolist(),
        "prepared": setup.data.prepared,
        "backbone_fingerprint": setup.fingerprint,
    }
    return {**folder.plain(config), "data_summary": summary}


def write_per_class(workdir: Path, data: Dataset, counts: dict[str, metrics.Counts]) -> None:
    """Writes per_class.csv: accuracies in percent, empty for classes without test images."""
    group = np.full(len(data.class_names), "", dtype=object)
    for name, members in metrics.groups(data.group_counts).items():
        group[members] = name
    accuracy = {row: metrics.class_accuracy(counts[row]) for row in folder.RESULTS if row in counts}
    header = folder.class_columns(accuracy)
    results = header[len(folder.CLASS_COLUMNS) :]
    images = next(iter(counts.values()))["total"]
    rows = (
        (c, name, data.counts[c], group[c], images[c])
        + tuple(float(accuracy[row][c]) if row in accuracy else None for row in results)
        for c, name in enumerate(data.class_names)
    )
    log.write_csv(workdir / "per_class.csv", header, rows)


def show(found: dict, config: ConfigDict, console: Console) -> None:
    """Prints the table of results."""
    tuner = config.tuner.name if found["tuned_params"] else "none"
    names = log.result_names(tuner, config.label, config.text_tuner.name)
    console.print(log.results_table({names[row]: found[row] for row in folder.RESULTS}))
