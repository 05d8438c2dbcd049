"""The parameters of a classifier: which are trained, which are frozen, and their numbers."""

import math
import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

from flax import nnx
from rich.table import Table

from lift_jax.models import tree
from lift_jax.models.backbone import Classifier
from lift_jax.models.tree import Tree
from lift_jax.tuners.prompt_learning import TunedTextHead


class Parameter(NamedTuple):
    """One array of a model: its path with slashes, its shape, and whether it is trained.

    Trained arrays are of kind "tuned", or "head" in a head with weights of its own.
    """

    name: str
    shape: tuple[int, ...]
    kind: Literal["tuned", "head", "frozen"]


def list_parameters(classifier: Classifier, tuned: Tree) -> list[Parameter]:
    """Returns every parameter of a classifier, without running statistics.

    `tuned` holds the tuned leaves by path.
    """

    def kind(path: str) -> Literal["tuned", "head", "frozen"]:
        if path not in tuned:
            return "frozen"
        in_head = path.startswith("head/") and not isinstance(classifier.head, TunedTextHead)
        return "head" if in_head else "tuned"

    _, leaves = tree.flatten(classifier)
    return [
        Parameter(path, leaf.shape, kind(path))
        for path, leaf in leaves.items()
        if isinstance(leaf, nnx.Param)
    ]


def parameter_counts(parameters: Iterable[Parameter]) -> dict[str, int]:
    """Returns the number of parameters of each kind: tuned, head and frozen."""
    counts = {"tuned": 0, "head": 0, "frozen": 0}
    for parameter in parameters:
        counts[parameter.kind] += math.prod(parameter.shape)
    return counts


def parameter_table(parameters: Iterable[Parameter]) -> Table:
    """Returns a table of the trained and frozen parts of a model, with their share of the total.

    A tuner has one row for all layers; frozen parameters have one row for each part of the model.
    """
    parameters = list(parameters)
    rows: dict[tuple[str, str], list[int]] = {}
    for parameter in parameters:
        name = re.sub(r"(?<=/)\d+(?=/)", "*", parameter.name)
        tuned = r".*/tuners/[^/]+|.*/blocks/\*|"  # up to the name of the tuner, or to the block
        inside = "" if parameter.kind == "head" else "head/[^/]+|"
        part = re.match(f"{tuned * (parameter.kind == 'tuned')}{inside}[^/]+", name)
        assert part is not None
        rows.setdefault((part[0], parameter.kind), []).append(math.prod(parameter.shape))
    everything = sum(map(sum, rows.values()))

    table = Table(title="Parameters", title_justify="left")
    for column in ("part", "", "arrays", "parameters", "share"):
        table.add_column(column, justify="left" if column in ("part", "") else "right")
    for (part, kind), sizes in sorted(rows.items(), key=lambda row: row[0][1] == "frozen"):
        count = sum(sizes)
        share = f"{count / everything:.3%}"
        table.add_row(part, kind, str(len(sizes)), f"{count:,}", share)
    return table
