"""The features that a run keeps: of training and test images, before and after tuning.

They are what the head takes, at unit length and in float16, from one crop of each image.
"""

import bisect
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float16, Int

from lift_jax.data.types import ArrayImages, Dataset, FileImages, Images, Split
from lift_jax.evaluation.candidate import Candidate
from lift_jax.evaluation.evaluator import Embeddings, Evaluator
from lift_jax.evaluation.programs import Job
from lift_jax.runs.kept import kept_file
from lift_jax.settings.schema import Settings
from lift_jax.training.checkpoint import weights_checksum
from lift_jax.training.setup import Setup
from lift_jax.training.start.head_init import sample_per_class
from lift_jax.training.state import State

NAME, VERSION = "features.safetensors", "1"
MOST = 50_000  # images of each split
EMBEDDING = ("visual/", "head/image_")  # beginnings of the paths on which an embedding depends


@dataclass(frozen=True)
class Features:
    """The features of a run's training and test images.

    Attributes:
        names: of the training images: paths below the data's folder, or "image 17".
        rows: indices of the training images in their split.
        labels: of the training images.
        after, before: features of the training images after and before tuning.
        test_rows, test_labels, test_after, test_before: the same of the test images.
        tuned: False if only the classifier was tuned, so that `before` is `after`.
        weights: the checksum of the tuned weights (`checkpoint.weights_checksum`).
    """

    names: list[str]
    rows: Int[np.ndarray, " n"]
    labels: Int[np.ndarray, " n"]
    after: Float16[np.ndarray, "n e"]
    before: Float16[np.ndarray, "n e"]
    test_rows: Int[np.ndarray, " m"]
    test_labels: Int[np.ndarray, " m"]
    test_after: Float16[np.ndarray, "m e"]
    test_before: Float16[np.ndarray, "m e"]
    tuned: bool
    weights: int


def keep(
    settings: Settings, setup: Setup, state: State | None, evaluator: Evaluator, workdir: Path
) -> None:
    """Computes the features of a run and writes them to its folder, and prints a line.

    `state` is None if nothing is tuned. Call it in every process, before the results are written,
    without which a run does not count as finished.
    """
    paths = {} if state is None else state.weights
    splits = splits_of(setup.data)
    rows = {name: choose(split.labels, settings.seed) for name, split in splits.items()}
    whole = {name for name, split in splits.items() if len(rows[name]) == len(split)}
    parts = {n: s if n in whole else s.take(rows[n]) for n, s in splits.items()}
    candidates = classifiers(setup, state)
    cached = whole if trains_from_cache(settings) else whole - {"train"}
    found = evaluator.embeddings(candidates, paths, parts, cached)
    tuned = "before" in candidates
    about = {"version": VERSION, "tuned": str(tuned), "weights": str(weights_checksum(paths))}
    if jax.process_index() == 0:
        kept_file.write(workdir / NAME, to_arrays(found, rows, setup.data.train.images), about)
    numbers = " and ".join(f"{len(found[name].rows):,} {name}" for name in splits)
    numbers = numbers.replace("train", "training")
    when = "before and after tuning" if tuned else "which tuning does not change"
    evaluator.console.print(f"Features: of {numbers} images, {when}, kept in {NAME}.")
    if missing := len(rows["train"]) - len(found["train"].rows):
        evaluator.console.print(
            f"Warning: training images that cannot be read, and so have no features: {missing:,}."
        )


def compile_ahead(
    settings: Settings, setup: Setup, state: State, evaluator: Evaluator
) -> Iterator[Job]:
    """Yields the jobs that compile what `keep` will use."""
    cached = {"train", "test"} if trains_from_cache(settings) else {"test"}
    splits = splits_of(setup.data)
    return evaluator.embeddings_ahead(classifiers(setup, state), state.weights, splits, cached)


def splits_of(data: Dataset) -> dict[str, Split]:
    """Returns the splits whose features are kept."""
    # Training images may be gone when a run is tested, whose results do not depend on them.
    train = data.train if data.train.skip else replace(data.train, skip=True, unreadable={})
    return {"train": train, "test": data.test}


def classifiers(setup: Setup, state: State | None) -> dict[str, Candidate]:
    """Returns the classifiers after and before tuning; one alone if both give equal features."""
    if state is None and setup.zero_shot is not None:
        return {"after": Candidate.of(*setup.zero_shot)}
    untuned = Candidate.of(*setup.untuned)
    if state is None or not any(path.startswith(EMBEDDING) for path in state.weights):
        return {"after": untuned}
    return {"after": Candidate.of(setup.graph, state.weights | setup.frozen), "before": untuned}


def trains_from_cache(settings: Settings) -> bool:
    """Returns True if training reads the activations of the test's view (`loop.open_batches`)."""
    train = settings.train
    plain = train.augment == "none" and not train.flip
    return plain and train.interpolation == settings.test.interpolation


def choose(labels: Int[np.ndarray, " n"], seed: int, most: int = MOST) -> Int[np.ndarray, " m"]:
    """Returns the indices of at most `most` images, ascending: small classes whole.

    Of larger classes as many are drawn, by `seed`, as leave the number of all at most `most`.
    """
    if len(labels) <= most:
        return np.arange(len(labels))
    counts = np.bincount(labels)
    caps = range(1, int(counts.max()) + 1)
    fit = bisect.bisect_right(caps, most, key=lambda cap: np.minimum(counts, cap).sum())
    return sample_per_class(labels, fit, seed)


def to_arrays(
    found: Mapping[str, Embeddings], rows: Mapping[str, np.ndarray], images: Images
) -> kept_file.Arrays:
    """Returns the arrays of the file. `rows` are the chosen images, `images` those for training."""
    arrays: kept_file.Arrays = {}
    for name, (places, labels, features) in found.items():
        arrays[f"{name}_rows"] = rows[name][places].astype(np.int32)
        arrays[f"{name}_labels"] = labels.astype(np.int32)
        arrays |= {f"{name}_{when}": values for when, values in features.items()}
    names = [name_of(images, i) for i in arrays["train_rows"].tolist()]
    return arrays | {"train_names": np.frombuffer(json.dumps(names).encode(), np.uint8)}


def name_of(images: Images, i: int) -> str:
    """Returns the path of an image below the folder of its data, or "image 17" without files."""
    if isinstance(images, FileImages):
        return images.paths[i]
    return f"image {images.rows[i]}" if isinstance(images, ArrayImages) else images.name(i)


def read(workdir: Path) -> Features | None:
    """Returns the features in a run folder, None if there are none.

    Raises UserError if the file is not what the run wrote.
    """
    return kept_file.read_as(workdir / NAME, VERSION, _made_of)


def _made_of(arrays: kept_file.Arrays, about: Mapping[str, str]) -> Features:
    tuned = about["tuned"] == "True"
    before = "before" if tuned else "after"
    return Features(
        json.loads(arrays["train_names"].tobytes()), arrays["train_rows"], arrays["train_labels"],
        arrays["train_after"], arrays[f"train_{before}"], arrays["test_rows"],
        arrays["test_labels"], arrays["test_after"], arrays[f"test_{before}"], tuned,
        int(about["weights"]),
    )  # fmt: skip
