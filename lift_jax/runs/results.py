"""The results of a run: measured on validation and test splits, written and shown."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from lift_jax.data.types import Dataset, Split
from lift_jax.errors import UserError
from lift_jax.evaluation import adjustment, metrics, tables
from lift_jax.evaluation.candidate import Candidate
from lift_jax.evaluation.evaluator import Evaluator
from lift_jax.evaluation.metrics import Counts
from lift_jax.evaluation.programs import Job
from lift_jax.models.tree import Tree
from lift_jax.parallel.mesh import replicated
from lift_jax.runs import finished_run, folder, log
from lift_jax.runs.kept import (
    examples,
    features,
    other_split,
    predictions,
    result_files,
    unreadable,
)
from lift_jax.runs.kept.predictions import TOP
from lift_jax.settings import words
from lift_jax.settings.schema import Settings
from lift_jax.storage import atomic
from lift_jax.storage.formats.csv_files import write_csv
from lift_jax.training.checkpoint import weights_checksum
from lift_jax.training.loop import Validate
from lift_jax.training.setup import Setup
from lift_jax.training.start.data import shorten
from lift_jax.training.state import State
from lift_jax.tuners import parameters
from lift_jax.tuners.prompt_learning import encode_texts_once


def test(
    settings: Settings, setup: Setup, state: State | None, workdir: Path, console: Console
) -> dict[str, Any]:
    """Tests the zero-shot classifier, if there is one, and the tuned classifier of a state.

    With test.adjust the tuned classifier is also tested after post-hoc logit adjustment. The
    strength is chosen on the validation split before the test split is read. Writes metrics.json,
    per_class.csv and the kept files (`kept/`), prints the table, and returns what metrics.json
    holds.
    """
    trained = state is not None and (workdir / log.LOG).exists()
    records = log.read_log(workdir / log.LOG) if trained else []  # first: a broken log is an error
    counts, choices = measure(settings, setup, state, console)
    data = setup.data
    found = summarise(counts, data) | choices
    sizes = parameters.parameter_counts(setup.parameters)
    found |= {
        "tuned_params": sizes["tuned"], "head_params": sizes["head"],
        "frozen_params": sizes["frozen"], "steps": int(state.step) if state is not None else 0,
        "seconds": records[-1].seconds if records else 0.0,
        "images_per_second": records[-1].images_per_second if records else 0.0,
    }  # fmt: skip
    warn_of_absent_classes(next(iter(counts.values())), data, console)
    features.keep(settings, setup, state, make_evaluator(settings, setup, console), workdir)
    counts = {row: counts[row] for row in finished_run.RESULTS if row in counts}
    weights = {} if state is None else state.weights
    answered = predictions.of_counts(counts, weights_checksum(weights))
    if jax.process_index() == 0:
        predictions.write(workdir, answered)
        headline = predictions.headline_result(list(counts), choices.get("validation"))
        examples.keep(workdir, data, answered, headline, features.read(workdir), console)
        folder.write_config(workdir, describe(settings.written, setup))
        write_per_class(workdir, data, counts)
        atomic.write_json(workdir / result_files.METRICS, found)
        result_files.seal(workdir)
    unreadable.record_unreadable(data, workdir, jax.process_index(), console, anew=("test",))
    show(found, settings, console)
    return found


def test_other_split(
    settings: Settings, setup: Setup, state: State | None, workdir: Path, console: Console
) -> dict[str, Any]:
    """Tests on the training or validation images (test.split) with one crop and prints the table.

    Writes a file of its own, so that the results on the test split stay. Returns its content.
    """
    split = settings.test.split
    images = {"train": setup.data.train, "val": setup.data.val}[split]
    assert images is not None  # `build` has checked
    candidates = zero_shot_candidate(setup)
    if state is not None:
        candidates["test"] = tuned_candidate(setup, state)
    evaluator = make_evaluator(settings, setup, console)
    description = f"Testing {tables.SPLITS[split]} images"
    tuned = () if state is None else state.weights
    counts = evaluator.one_crop(candidates, tuned, images, description)
    summaries = summarise(counts, setup.data)
    found = {
        "split": split, "steps": int(state.step) if state is not None else 0,
        "interpolation": settings.test.interpolation,
        "zero_shot": summaries["zero_shot"], "test": summaries["test"],
    }  # fmt: skip
    if jax.process_index() == 0:
        other_split.write(workdir, split, found)
    unreadable.record_unreadable(setup.data, workdir, jax.process_index(), console, anew=(split,))
    names = tables.result_names(words.method(settings.written))
    rows = {tables.on_split(names[row], split): found[row] for row in ("zero_shot", "test")}
    console.print(tables.results_table(rows))
    return found


def measure(
    settings: Settings, setup: Setup, state: State | None, console: Console
) -> tuple[dict[str, Counts], dict[str, Any]]:
    """Returns the counts on the test split by result, and what the validation split decided."""
    evaluator, data = make_evaluator(settings, setup, console), setup.data
    once = zero_shot_candidate(setup)
    if state is None:
        counts = evaluator.one_crop(once, (), data.test, "Testing", TOP)
        return counts, {"adjustment": None}
    tuned, decided = tuned_candidate(setup, state), {}
    if settings.test.adjust:
        assert data.val is not None  # `build` has checked
        decided = choose_adjustment(evaluator, tuned, state.weights, data, console)
        tuned = tuned._replace(shifts=adjustment.shifts((0.0, decided["tau"]), data.counts))
    counts = evaluator.one_crop(once | {"test": tuned}, state.weights, data.test, "Testing", TOP)
    choices: dict[str, Any] = {"adjustment": decided or None}
    if settings.test.tte:
        counts |= evaluator.crops({"test_tte": tuned}, data.test, "Testing", TOP)
        if data.val is not None:
            plain = tuned._replace(shifts=None)
            choices["validation"] = compare_crops(
                evaluator, plain, state.weights, data.val, data, console
            )
    if decided:
        for row in {"test", "test_tte"} & counts.keys():
            unadjusted, adjusted = (adjustment.select(counts[row], i) for i in (0, 1))
            counts |= {row: unadjusted, f"{row}_adjusted": adjusted}
    return counts, choices


def compile_ahead(
    settings: Settings, setup: Setup, state: State, console: Console
) -> Iterator[Job]:
    """Yields the jobs that compile what `test` will use, as far as it is known before training.

    With logit adjustment, and with a head of texts, the tuned classifier is known only later.
    """
    evaluator, data, tte = make_evaluator(settings, setup, console), setup.data, settings.test.tte
    once = zero_shot_candidate(setup)
    leaves = state.weights | setup.frozen
    if settings.head.kind != "text" and not settings.test.adjust:
        tuned = Candidate.of(setup.graph, leaves)
        splits = [(once | {"test": tuned}, data.test, TOP)]
        if data.val is not None and (tte or settings.checkpoint.best):
            splits.insert(0, ({"val": tuned}, data.val, 0))
        for candidates, split, top in splits:
            yield from evaluator.count_ahead(candidates, state.weights, split, top)
            if tte:
                yield from evaluator.count_ahead({"": tuned}, (), split, top, crops=True)
    yield from features.compile_ahead(settings, setup, state, evaluator)


def make_evaluator(settings: Settings, setup: Setup, console: Console) -> Evaluator:
    """Returns the evaluator of a run's splits."""
    return Evaluator(
        setup.mesh, setup.vision, setup.cache, setup.programs, settings.test, settings.seed,
        settings.train.min_area, settings.data.workers, console,
    )  # fmt: skip


def zero_shot_candidate(setup: Setup) -> dict[str, Candidate]:
    """Returns the zero-shot classifier by the key of its result, {} if there is none."""
    return {} if setup.zero_shot is None else {"zero_shot": Candidate.of(*setup.zero_shot)}


def tuned_candidate(setup: Setup, state: State) -> Candidate:
    """Returns the tuned classifier, its texts encoded once where it has any."""
    leaves = state.weights | setup.frozen
    return Candidate.of(*encode_texts_once(setup.graph, leaves, replicated(setup.mesh)))


def choose_adjustment(
    evaluator: Evaluator, tuned: Candidate, paths: Tree, data: Dataset, console: Console
) -> dict[str, Any]:
    """Returns the best strength of the adjustment on the validation split, and the mean accuracy
    of each strength."""
    assert data.val is not None
    shifts = adjustment.shifts(adjustment.TAUS, data.counts)
    trials = {"val": tuned._replace(shifts=shifts)}
    validated = evaluator.one_crop(trials, paths, data.val, "Validating")
    tau, means = adjustment.choose(validated["val"])
    console.print(
        f"Adjustment: tau {tau} is best on {len(data.val):,} validation images (mean over "
        f"the classes {means[str(tau)]:.2f} %; {means['0.0']:.2f} % without)."
    )
    return {"tau": tau, "val_mean": means}


def compare_crops(
    evaluator: Evaluator,
    tuned: Candidate,
    paths: Tree,
    val: Split,
    data: Dataset,
    console: Console,
) -> dict[str, float]:
    """Returns the mean accuracy on the validation split with one crop and with the ensemble.

    Prints a warning if the ensemble does worse.
    """
    counts = evaluator.one_crop({"test": tuned}, paths, val, "Validating")
    counts |= evaluator.crops({"test_tte": tuned}, val, "Validating")
    means = {
        row: float(metrics.summarise(count, data.group_counts)["mean"] or 0.0)
        for row, count in counts.items()
    }
    if means["test_tte"] < means["test"]:
        console.print(
            f"Warning: on the validation split the test-time ensemble does worse than one crop "
            f"({means['test_tte']:.2f} against {means['test']:.2f} %, mean over the classes). Set "
            "test.tte=False, or a smaller test.expand.",
        )
    return means


def validator(settings: Settings, setup: Setup, console: Console) -> Validate:
    """Returns the function from a state to its score: the mean accuracy over the classes.

    The score is in percent, on the validation split. Raises UserError if there is no such split.
    """
    val = setup.data.val
    if val is None:
        raise UserError(
            "checkpoint.best needs a validation split, because it never chooses by the test split, "
            f"and data.name={settings.data.name!r} has none here. Give a validation split of the "
            "data set, or data.val_share=0.1, which holds out that share of the training images."
        )
    evaluator = make_evaluator(settings, setup, console)

    def score(state: State) -> float:
        tuned = {"val": tuned_candidate(setup, state)}
        counts = evaluator.one_crop(tuned, state.weights, val, "Validating")
        mean = metrics.summarise(counts["val"], setup.data.group_counts)["mean"]
        assert mean is not None  # the split holds images
        return mean

    return score


def summarise(counts: Mapping[str, Counts], data: Dataset) -> dict[str, Any]:
    """Returns the accuracies of each result; None for a result that was not measured."""
    return {
        row: metrics.summarise(counts[row], data.group_counts) if row in counts else None
        for row in finished_run.RESULTS
    }


def warn_of_absent_classes(counts: Counts, data: Dataset, console: Console) -> None:
    """Prints a warning that names the classes without a test image."""
    missing = metrics.absent(counts)
    if missing:
        console.print(
            f"Warning: classes without a test image ({len(missing)} of {len(data.class_names)}), "
            f"left out of the class means: {shorten([data.class_names[i] for i in missing])}",
        )


def describe(written: Mapping[str, Any], setup: Setup) -> dict[str, Any]:
    """Returns what a checkpoint belongs to, which is also what config.json holds."""
    summary = {
        "class_names": list(setup.data.class_names),
        "counts": setup.data.counts.tolist(),
        "prepared": setup.data.prepared,
        "backbone_fingerprint": setup.fingerprint,
    }
    return {**written, "data_summary": summary}


def write_per_class(workdir: Path, data: Dataset, counts: Mapping[str, Counts]) -> None:
    """Writes per_class.csv: accuracies in percent, empty for classes without test images."""
    group = metrics.group_of_each(data.group_counts)
    accuracy = {
        row: metrics.class_accuracy(counts[row]) for row in finished_run.RESULTS if row in counts
    }
    header = finished_run.class_columns(accuracy)
    results = header[len(finished_run.CLASS_COLUMNS) :]
    images = next(iter(counts.values()))["total"]
    rows = (
        (c, name, data.counts[c], group[c], images[c])
        + tuple(float(accuracy[row][c]) if row in accuracy else None for row in results)
        for c, name in enumerate(data.class_names)
    )
    write_csv(workdir / result_files.PER_CLASS, header, rows)


def show(found: Mapping[str, Any], settings: Settings, console: Console) -> None:
    """Prints the table of results."""
    method = words.method(settings.written, bool(found["tuned_params"]))
    names = tables.result_names(method)
    console.print(tables.results_table({names[row]: found[row] for row in finished_run.RESULTS}))
