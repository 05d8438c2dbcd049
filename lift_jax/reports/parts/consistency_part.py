"""The part of a report on consistency: what tuning did to the classes, in training and in test."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lift_jax.errors import UserError
from lift_jax.evaluation.insight import consistency
from lift_jax.evaluation.insight.consistency import Consistency
from lift_jax.evaluation.metrics import GROUPS
from lift_jax.output.plain import minus
from lift_jax.reports import page
from lift_jax.reports.figures.by_class import head_first
from lift_jax.reports.figures.consistency import distance_figure, similarity_figure
from lift_jax.runs.finished_run import Run
from lift_jax.runs.kept import features, kept_file

NOTE = (
    "Of features from one crop, by their cosines (LIFT, section 3). Distance: 1 minus the cosine "
    "of an image with the mean of the other training images of its class. For a test image one of "
    "them is left out as well, so that training and test images that are alike have no gap, "
    "however few they are. Gap: the distance of test images minus that of training images. Alike: "
    "mean cosine of the mean of a class with those of the other classes. Means over the classes "
    "that have two training images and a test image."
)
ABSENT = (
    "This run kept no features. Test it again (--mode=evaluate), and the report shows what tuning "
    "did to its classes."
)
ADVICE = (
    "The classifier fits the training images of these classes better than new images. Tune more "
    "lightly: a small tuner (tuner.name=adaptformer) instead of more of the backbone, a lower "
    "train.lr, or fewer train.epochs."
)
ONE_PLACE = (
    "All classes lie in one place: the cosine of their means is {:.2f}, before tuning {:.2f}. "
    "Training has destroyed the features. Give a lower train.lr."
)
FAR = 1.25  # test images lie that much further than training images where the gap is large
SAME_PLACE = 0.95  # mean cosine of class means
WORDS = {"many": "Many-shot", "medium": "Medium-shot", "few": "Few-shot"}

Numbers = Mapping[str, Mapping[str, Mapping[str, float]]]  # of `consistency.summary`


@dataclass(frozen=True)
class Part:
    """What the page shows: sentences, two figures and a table, or a note that says why not."""

    note: str
    sentences: list[str] = field(default_factory=list)
    figures: list[page.Image] = field(default_factory=list)
    table: page.Table | None = None
    caption: str = "Distances and cosines by group of classes"


@dataclass(frozen=True)
class Measured:
    """The consistency of a run before and after tuning; `tuned` is False if both are the same."""

    before: Consistency
    after: Consistency
    tuned: bool
    numbers: Numbers


def measure(run: Run) -> Measured | None:
    """Returns the consistency of a run, None if it kept no features.

    Raises UserError if its features are damaged, or of another data set or test.
    """
    found = features.read(run.workdir)
    if found is None:
        return None
    if features.NAME in run.changed:
        path = run.workdir / features.NAME
        raise UserError(f"{path} is not of the run's last test. {kept_file.REMEDY}")
    classes = len(run.names)
    if max(found.labels.max(initial=0), found.test_labels.max(initial=0)) >= classes:
        raise UserError(f"{run.workdir / features.NAME} is of a run with other classes.")
    labels = found.labels, found.test_labels
    after = consistency.measure(found.after, found.test_after, *labels, classes)
    before = after
    if found.tuned:
        before = consistency.measure(found.before, found.test_before, *labels, classes)
    numbers = consistency.summary(before, after, run.groups, GROUPS)
    return Measured(before, after, found.tuned, numbers)


def part(run: Run, out: Path) -> Part:
    """Returns the part of a run and writes its figures into `out`."""
    try:
        found = measure(run)
    except UserError as error:
        return Part(str(error))
    if found is None:
        return Part(ABSENT)
    states = {"before tuning": found.before, "after tuning": found.after}
    images = draw(states if found.tuned else {"features": found.after}, run, out)
    return Part(NOTE, sentences(found), list(images.values()), _table(found))


def draw(
    states: Mapping[str, Consistency], run: Run, out: Path, prefix: str = "report"
) -> dict[str, page.Image]:
    """Draws the similarities and the distances of states of a model, or of several runs.

    `run` has their classes. Writes PREFIX_similarity.png into `out`, and PREFIX_distances.png if
    any distance is known. Returns them by name.
    """
    any_state = next(iter(states.values()))
    there = set(np.flatnonzero(any_state.means.any(axis=1)).tolist())
    order = [c for c in head_first(run.groups, run.train_counts) if c in there]
    sizes = {name: sum(run.groups[c] == name for c in order) for name in GROUPS}
    maps = {name: consistency.similarity_map(each.means[order]) for name, each in states.items()}
    drawn = {"similarity": similarity_figure(maps, sizes, [run.names[c] for c in order])}
    gaps = consistency.by_group(any_state.test - any_state.train, run.groups, GROUPS)
    if shown := [name for name in GROUPS if np.isfinite(gaps[name])]:
        distances = {name: (each.train, each.test) for name, each in states.items()}
        drawn["distances"] = distance_figure(distances, run.groups, shown)
    alt = {"similarity": "Cosines of the class means", "distances": "Distances to the class"}
    return {
        name: page.image(figure, out / f"{prefix}_{name}.png", alt[name])
        for name, figure in drawn.items()
    }


def known(numbers: Numbers, group: str) -> bool:
    """Returns True if distances of a group are known."""
    return bool(np.isfinite(numbers[group]["after"]["gap"]))


def sentences(found: Measured) -> list[str]:
    """Returns what the numbers say, a sentence for each group, and what to do."""
    numbers = found.numbers
    groups = [name for name in WORDS if known(numbers, name)]
    said = [sentence(found, group) for group in groups]
    if not groups:
        said.append("No class has two training images and a test image: no distance is known.")
    alike, earlier = (numbers["all"][state]["similarity"] for state in ("after", "before"))
    if found.tuned and alike >= SAME_PLACE > earlier:
        said.append(ONE_PLACE.format(alike, earlier))
    elif found.tuned and any(grew(numbers[group]) for group in groups):
        said.append(ADVICE)
    return said


def sentence(found: Measured, group: str) -> str:
    """Returns what the numbers of a group say."""
    before, after = found.numbers[group]["before"], found.numbers[group]["after"]
    line = (
        f"{WORDS[group]} classes: training images lie {after['train']:.2f} from the mean of "
        f"their class, test images {after['test']:.2f}"
    )
    if found.tuned:
        line += f"; before tuning {before['train']:.2f} and {before['test']:.2f}"
    return f"{line}: {verdict(before, after, found.tuned)}."


def far(state: Mapping[str, float]) -> bool:
    """Returns True if test images lie much further from their class than training images."""
    return state["test"] >= FAR * state["train"] > 0


def grew(states: Mapping[str, Mapping[str, float]]) -> bool:
    """Returns True if tuning moved test images much further away, relative to training images."""
    before, after = states["before"], states["after"]
    return far(after) and after["test"] * before["train"] >= FAR * before["test"] * after["train"]


def verdict(before: Mapping[str, float], after: Mapping[str, float], tuned: bool) -> str:
    """Returns what tuning did to a group of classes, as the end of a sentence."""
    if not tuned:
        return "they differ already" if far(after) else "they are alike"
    if grew({"before": before, "after": after}):
        if after["train"] >= before["train"]:
            return "tuning moved the test images away from the training images"
        more = after["test"] < 0.9 * before["test"]
        return "tuning pulled the training images together " + (
            "more than the test images" if more else "but not the test images"
        )
    if far(before) and far(after):
        return "the test images differ from the training images, and did so before tuning"
    closer = all(after[kind] < 0.95 * before[kind] for kind in ("train", "test"))
    return "tuning pulled both together alike" if closer else "they stayed alike"


def _table(found: Measured) -> page.Table:
    """Returns the table of the groups, a row for each state."""
    kinds = {"train": "training", "test": "test", "gap": "gap", "similarity": "alike"}
    states = ("before", "after") if found.tuned else ("after",)
    rows = [
        (
            f"{group}, {state} tuning" if found.tuned else group,
            [(decimals(own[state][kind]), False) for kind in kinds],
        )
        for group, own in found.numbers.items()
        for state in states
    ]
    return page.Table(["distance", *kinds.values()], rows)


def decimals(value: float) -> str:
    """Returns a distance or cosine with three decimals, a dash for one that is not known."""
    return "–" if np.isnan(value) else minus(f"{value:.3f}")
