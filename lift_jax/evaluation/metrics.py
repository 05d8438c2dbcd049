"""Metrics of a long-tailed benchmark, computed through counts that can be added.

`count` runs inside jit on one batch. `add` sums its results over batches on the host, without
overflow. `summarise` turns the sums into percentages. So the metrics depend neither on the batch
size nor on the number of devices, and padded rows do not count.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

BINS = 10  # number of bins of the expected calibration error
ROWS = "answer_"  # begins the names of arrays [... n k] with a row for each image
FLOOR = 0.001  # smallest accuracy of a class in the harmonic mean, in percent

Counts = dict[str, np.ndarray]
Summary = dict[str, float | int | None]

GROUPS = ("many", "medium", "few")  # of classes by their training images (`groups`)
COLUMNS = ("overall", *GROUPS, "mean")  # of tables of results
# The keys of a summary, in the order of files. All but the last are percentages.
NAMES = (
    *("overall", "mean", *GROUPS),
    *("hmean", "gmean", "worst", "macro_f1", "ece", "images"),
)


def count(
    logits: Float[Array, "n c"],
    labels: Int[Array, " n"],
    mask: Bool[Array, " n"] | None = None,
) -> dict[str, Array]:
    """Returns the counts of one batch; jit it.

    Args:
        logits: of any floating type. The prediction is the first class with the largest logit.
        labels: class numbers; those of padded rows are ignored.
        mask: true for real rows; None if all rows are real.

    Returns:
        int32[c]: `correct` and `total` by label, `predicted` by prediction. For each tenth (lo, hi]
        of confidence (the largest softmax probability): int32[10] `bin_total` and `bin_correct`,
        float32[10] `bin_confidence`, the sum of the confidences.
    """
    classes = logits.shape[-1]
    if mask is None:
        mask = jnp.ones(labels.shape, bool)
    logits = jnp.where(mask[:, None], logits.astype(jnp.float32), 0.0)
    labels = jnp.where(mask, labels, 0)
    real = mask.astype(jnp.int32)

    predicted = logits.argmax(-1)
    correct = (mask & (predicted == labels)).astype(jnp.int32)
    confidence = jax.nn.softmax(logits).max(-1)
    # Bins are closed above, so that a confidence of 1 belongs to the last.
    bins = jnp.clip(jnp.ceil(confidence * BINS).astype(jnp.int32) - 1, 0, BINS - 1)
    return {
        "correct": jax.ops.segment_sum(correct, labels, classes),
        "total": jax.ops.segment_sum(real, labels, classes),
        "predicted": jax.ops.segment_sum(real, predicted, classes),
        "bin_total": jax.ops.segment_sum(real, bins, BINS),
        "bin_correct": jax.ops.segment_sum(correct, bins, BINS),
        "bin_confidence": jax.ops.segment_sum(jnp.where(mask, confidence, 0.0), bins, BINS),
    }


def add(total: Counts | None, counts: Mapping[str, ArrayLike]) -> Counts:
    """Returns total + counts on the host, in int64 and float64; a total of None is empty.

    Arrays with a row for each image (`ROWS`) are joined instead, in their own type.
    """
    wide = {}
    for key, value in counts.items():
        array = np.asarray(value)
        if key.startswith(ROWS):
            wide[key] = array if total is None else np.concatenate([total[key], array], axis=-2)
            continue
        array = array.astype(np.float64 if array.dtype.kind == "f" else np.int64)
        wide[key] = array if total is None else total[key] + array
    return wide


def groups(train_counts: ArrayLike) -> dict[str, np.ndarray]:
    """Returns bool[c] for many (n > 100), medium (20 <= n <= 100) and few (n < 20).

    Args:
        train_counts: number of training images of each class, [c]. LIFT groups CIFAR-100-LT by its
            counts at imbalance ratio 100, whatever the ratio: pass those counts.
    """
    n = np.asarray(train_counts)
    return dict(zip(GROUPS, (n > 100, (n >= 20) & (n <= 100), n < 20), strict=True))


def group_of_each(train_counts: ArrayLike) -> list[str]:
    """Returns the name of the group of each class (see `groups`)."""
    members = groups(train_counts)
    names = np.select(list(members.values()), list(members), "")
    return names.tolist()


def class_accuracy(counts: Counts) -> np.ndarray:
    """Returns the accuracy of each class in percent, float64[c]; NaN without test images."""
    correct = np.asarray(counts["correct"], np.float64)
    total = np.asarray(counts["total"], np.float64)
    return np.divide(100 * correct, total, out=np.full_like(total, np.nan), where=total > 0)


def absent(counts: Counts) -> list[int]:
    """Returns the classes without a test image, which all class means leave out."""
    return np.flatnonzero(counts["total"] == 0).tolist()


def summarise(counts: Counts, train_counts: ArrayLike) -> Summary:
    """Returns the metrics of a test split, with the keys `NAMES`.

    All but `images` are percentages. A metric over classes leaves out those without a test image.

        overall             share of the images that are classified correctly
        mean                mean accuracy of the classes
        many, medium, few   mean accuracy of the classes of each group; None without any
        hmean               harmonic mean over classes, where each counts at least 0.001 %
        gmean               geometric mean over classes; 0 if one of them is 0
        worst               accuracy of the worst class
        macro_f1            mean F1 score of the classes
        ece                 expected calibration error, over ten bins
        images              number of test images; all other metrics are None if it is 0
    """
    present = counts["total"] > 0
    images = int(counts["total"].sum())
    if not images:
        return {**dict.fromkeys(NAMES), "images": 0}
    accuracy = class_accuracy(counts)
    measured = accuracy[present]
    summary: Summary = {
        "overall": 100 * float(counts["correct"].sum()) / images,
        "mean": float(measured.mean()),
    }
    for name, members in groups(train_counts).items():
        members = accuracy[members & present]
        summary[name] = float(members.mean()) if members.size else None
    summary["hmean"] = float(1 / (1 / np.maximum(measured, FLOOR)).mean())
    summary["gmean"] = float(np.exp(np.log(measured).mean())) if measured.all() else 0.0
    summary["worst"] = float(measured.min())
    # F1 = 2 true positives / (images of the class + predictions of it).
    f1 = 2 * counts["correct"][present] / (counts["total"] + counts["predicted"])[present]
    summary["macro_f1"] = 100 * float(f1.mean())
    gap = np.abs(counts["bin_confidence"] - counts["bin_correct"]).sum()
    # Rounded, because it is the one sum of floating-point numbers, whose order may vary.
    summary["ece"] = round(100 * float(gap) / images, 3)
    summary["images"] = images
    return summary
