"""A classifier to evaluate, and the programs that its images pass.

Nearly all of the time to compile goes into image towers. So a tower is a program of its own, and so
is each part of the head: results that need the same part share it.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, PyTree

from lift_jax.evaluation import forward
from lift_jax.evaluation.forward import Batch
from lift_jax.evaluation.programs import Program, Programs
from lift_jax.evaluation.stream import placed
from lift_jax.models import tree
from lift_jax.models.backbone import Classifier, Vision
from lift_jax.models.heads import l2_normalise
from lift_jax.models.tree import Tree

PIXELS = ("image", "cut")  # what a tower takes of a batch

# `Program.__call__`, or `Program.compile` for shapes: the way in which a program is used
Use = Callable[..., Any]


class Half(NamedTuple):
    """The image tower or the head of a classifier, as graph and leaves."""

    graph: nnx.GraphDef[Any]
    leaves: Tree


class Candidate(NamedTuple):
    """A classifier to evaluate, as image tower and head.

    If `shifts` f32[t c] are given, each of them is subtracted from the logits and gets its own
    counts, along a first axis [t].
    """

    tower: Half
    head: Half
    shifts: Float[np.ndarray, "t c"] | None = None

    @classmethod
    def of(cls, graph: nnx.GraphDef[Classifier], leaves: Tree) -> "Candidate":
        """Returns the classifier of a graph and leaves."""
        model = tree.merge(graph, leaves)
        head = cast(nnx.Module, model.head)
        return cls(Half(*tree.split(model.visual)), Half(*tree.split(head)))

    def shapes(self) -> "Candidate":
        """Returns the candidate with the shapes of its leaves, which holds no arrays."""
        tower, head = (Half(half.graph, shapes(half.leaves)) for half in (self.tower, self.head))
        return self._replace(tower=tower, head=head)


def shapes(leaves: PyTree) -> PyTree:
    """Returns the shapes of arrays with their types and places."""

    def shape(leaf: jax.Array) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)

    return jax.tree.map(shape, leaves)


@dataclass(frozen=True)
class Chain:
    """The programs from a batch to the results of candidates.

    Each method runs programs on arrays, or compiles them for shapes, as `use` says.

    Attributes:
        mesh: the devices.
        vision: sizes of the image tower.
        programs: programs of the run.
        start: the block that batches enter, if they hold activations; 0 for images.
    """

    mesh: Mesh
    vision: Vision
    programs: Programs
    start: int = 0

    def counts(
        self, batch: Mapping[str, Any], candidate: Candidate, top: int, use: Use = Program.__call__
    ) -> dict[str, Array]:
        """Returns the counts of a candidate's answers; see `forward.make_count`."""
        shifts = candidate.shifts
        key = None if shifts is None else shifts.tobytes()
        count = self.programs.get(
            lambda: forward.make_count(self.mesh, shifts, top), (), "count", key, top
        )
        logits = self._logits(self._embedded(batch, candidate, use), candidate, use)
        return use(count, logits, _rest(batch))

    def outputs(
        self, batch: Mapping[str, Any], candidate: Candidate, use: Use = Program.__call__
    ) -> tuple[Array, ...]:
        """Returns logits and embeddings for `stream.in_order`."""

        def outputs(_: Batch, *found: Array) -> tuple[Array, ...]:
            return found

        program = self.programs.get(lambda: placed(outputs, self.mesh), (), "outputs")
        embedded = self._embedded(batch, candidate, use)
        return use(program, _rest(batch), self._logits(embedded, candidate, use), embedded)

    def units(
        self, batch: Mapping[str, Any], candidates: Iterable[Candidate], use: Use = Program.__call__
    ) -> tuple[Array, ...]:
        """Returns the embeddings of each candidate at unit length, f16, for `stream.in_order`."""

        def units(_: Batch, *found: Array) -> tuple[Array, ...]:
            return tuple(l2_normalise(each).astype(jnp.float16) for each in found)

        program = self.programs.get(lambda: placed(units, self.mesh), (), "units")
        found = [self._embedded(batch, candidate, use) for candidate in candidates]
        return use(program, _rest(batch), *found)

    def _embedded(self, batch: Mapping[str, Any], candidate: Candidate, use: Use) -> Array:
        (tower, leaves), (head, head_leaves), _ = candidate
        features = self.programs.get(
            lambda: forward.make_features(tower, self.vision, self.mesh, self.start),
            (tower,), "features", self.start,
        )  # fmt: skip
        embed = self.programs.get(lambda: forward.make_embed(head, self.mesh), (head,), "embed")
        pixels = {key: rows for key, rows in batch.items() if key in PIXELS}
        return use(embed, head_leaves, use(features, leaves, pixels))

    def _logits(self, embedded: Array, candidate: Candidate, use: Use) -> Array:
        graph, leaves = candidate.head
        classify = self.programs.get(
            lambda: forward.make_classify(graph, self.mesh), (graph,), "classify"
        )
        return use(classify, leaves, embedded)


def _rest(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a batch holds beside its images."""
    return {key: rows for key, rows in batch.items() if key not in PIXELS}
