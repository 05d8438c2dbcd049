"""The leaves of the classifier: tuned and frozen ones, given ones, and their placement."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.console import Console

from lift_jax.errors import UserError
from lift_jax.models.backbone import Classifier, Tower
from lift_jax.models.resnet import ResNet
from lift_jax.models.tree import Tree
from lift_jax.parallel.agreement import agree
from lift_jax.training.classifier import Assembled
from lift_jax.training.placement import Placement
from lift_jax.training.start.backbone import FrozenClassifier, digest
from lift_jax.training.state import split_trainable
from lift_jax.tuners.attach import applies
from lift_jax.tuners.parameters import Parameter, list_parameters, parameter_table
from lift_jax.weights import authors

SCALE = "/tuners/adaptformer/scale"  # end of a path; frozen unless it is learned


def drop_inapplicable(
    names: Sequence[str], visual: Tower, backbone: str, console: Console
) -> tuple[str, ...]:
    """Returns the tuners that apply to this kind of tower; prints a warning about the others.

    `backbone` is the name for the warning.
    """
    dropped = [name for name in names if not applies(name, visual)]
    if not dropped:
        return tuple(names)
    kinds = "transformer blocks", "a ResNet"
    has, needs = kinds[::-1] if isinstance(visual, ResNet) else kinds
    kept = tuple(name for name in names if name not in dropped)
    console.print(
        f"Warning: {' and '.join(dropped)} belongs into {needs}, and {backbone} is {has}: "
        f"{' and '.join(kept) or 'its classifier'} alone is tuned.",
    )
    return kept


def split_weights(
    assembled: Assembled, console: Console
) -> tuple[nnx.GraphDef[Classifier], Tree, Tree, list[Parameter]]:
    """Returns graph, tuned leaves, frozen leaves and parameters; prints the table of parameters.

    Raises UserError if nothing would be trained.
    """
    graph, tuned, frozen = split_trainable(assembled.model, assembled.is_trainable)
    if not tuned:
        raise UserError("Nothing would be trained: give another tuner.name, or head.kind=cosine.")
    parameters = list_parameters(assembled.model, tuned)
    console.print(parameter_table(parameters))
    return graph, tuned, frozen, parameters


def read_tuned(file: str, mask: str, tuned: Tree, frozen: Tree) -> Tree:
    """Returns the tuned leaves in a file: a checkpoint of the authors' code, or an export.

    Args:
        file: path of the file (model.tuned).
        mask: how aft chose its entries (tuner.mask).
        tuned: leaves whose shapes the file must have.
        frozen: frozen leaves, among them the positions of aft's entries.

    Raises UserError if the file does not fit.
    """
    scales = {path: float(leaf) for path, leaf in frozen.items() if path.endswith(SCALE)}
    shapes = {path: leaf.shape for path, leaf in tuned.items()} | dict.fromkeys(scales, ())
    entries = {path: leaf for path, leaf in frozen.items() if path.endswith("_at")}
    read = authors.read(file, shapes, mask=mask, entries=entries)
    if other := [path for path, fixed in scales.items() if read[path] != np.float32(fixed)]:
        raise UserError(
            f"{file} (model.tuned) has the scale {read[other[0]]:g} at {other[0]}, and tuner.scale "
            f"is {scales[other[0]]:g} there. Set tuner.scale=learned, as the file has it."
        )
    read = {path: array for path, array in read.items() if path not in scales}
    agree({f"the weights of {p} (model.tuned)": digest(a.tobytes()) for p, a in read.items()})
    return {path: jnp.asarray(array) for path, array in read.items()}


def place_frozen(
    placement: Placement,
    zero_shot: FrozenClassifier | None,
    untuned: FrozenClassifier,
    frozen: Tree,
) -> tuple[FrozenClassifier | None, FrozenClassifier, Tree]:
    """Places the frozen leaves of the zero-shot, the untuned and the tuned classifier.

    Leaves that several have are placed once and shared.
    """
    whole: Tree = {}
    for leaves in (zero_shot[1] if zero_shot else {}, frozen, untuned[1]):
        whole |= placement.frozen({p: a for p, a in leaves.items() if p not in whole})
    if zero_shot is not None:
        zero_shot = zero_shot[0], {path: whole[path] for path in zero_shot[1]}
    untuned = untuned[0], {path: whole[path] for path in untuned[1]}
    return zero_shot, untuned, {path: whole[path] for path in frozen}
