"""Checkpoints of the authors' code, LIFT and LIFT+: the tuned weights without the backbone.

LIFT saves `checkpoint.pth.tar` as {"tuner": tensors by name, "head": tensors by name}, LIFT+ as
{"tuner": tensors by name} with the classifier among them. In a safetensors file the key comes first
in a name: "tuner.adaptformer_list.0.ln.weight". A checkpoint says neither which classes the rows
of the classifier are (for iNaturalist 2018 the order is that of the sorted class names), nor the
scale of a cosine classifier.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from lift_jax.errors import UserError, unknown
from lift_jax.storage.formats.tensors import write_tensors
from lift_jax.storage.names import expand_user
from lift_jax.weights.authors.contents import (
    MASKS,
    Contents,
    contents_of,
    known_tuners,
    path_rule,
    remedy,
)
from lift_jax.weights.authors.names import LIFT_BIAS, LIFT_BLOCK, LIFT_LN, TABLES, fill
from lift_jax.weights.files import torch_archive
from lift_jax.weights.files.source import read_safetensors
from lift_jax.weights.rename import Table, their_name, to_ours, to_theirs


def read(
    path: str | Path,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    mask: str = "each",
    entries: Mapping[str, ArrayLike] | None = None,
) -> dict[str, np.ndarray]:
    """Reads a checkpoint of LIFT or LIFT+, or a file of `write`, as float32 leaves by our paths.

    Args:
        path: the checkpoint.
        shapes: the shapes of the tuned leaves, by path.
        mask: the setting tuner.mask, the rule by which the tuner aft chooses its entries.
        entries: the flat indices of these entries, by the path of the leaf and "_at". They are
            compared with the indices that LIFT+ saves.

    Raises:
        UserError: if the file cannot be read or is of another kind; if a name is missing,
            unexpected, of another shape or not finite, all faults in one message with the
            settings that fit the checkpoint; if aft trains other entries.
    """
    tensors, held, masks = _open(expand_user(path))
    table = table_of(shapes, held.layout)
    wanted = contents_of(held.layout, shapes)
    if "aft" in held.tuners and "aft" in wanted.tuners:
        check_mask(str(path), held.layout, mask)
    leaves = to_ours(tensors, shapes, table, str(path), remedy=remedy(held, wanted))
    read = {leaf: np.array(array, np.float32, order="C") for leaf, array in leaves}
    for leaf in read:
        theirs = masks.get(their_name(leaf, table)[0].replace("optimized_params", "mask"))
        own = (entries or {}).get(f"{leaf}_at")
        if theirs is not None and own is not None and np.any(np.flatnonzero(theirs) != own):
            raise UserError(
                f"{path} tunes other entries than aft with these settings: set tuner.seed (and "
                "tuner.ratio) to the values it was trained with."
            )
    return read


def check_mask(where: str, layout: str, mask: str) -> None:
    """Raises UserError unless tuner.mask is the rule by which a layout chooses aft's entries."""
    if mask != MASKS[layout]:
        raise UserError(
            f"{where}: with tuner.mask={mask!r} aft tunes other entries than {layout} does. Set "
            f"--config.tuner.mask={MASKS[layout]}."
        )


def describe(path: str | Path) -> Contents:
    """Returns the contents of a checkpoint of LIFT or LIFT+, or of a file of `write`.

    Raises UserError if the file cannot be read or is of another kind.
    """
    return _open(expand_user(path))[1]


def write(path: str | Path, leaves: Mapping[str, ArrayLike], layout: str = "lift_plus") -> None:
    """Writes tuned leaves, given by our paths, as float32 safetensors with the authors' names.

    `layout` is lift or lift_plus. Raises UserError for another layout, for leaves that the layout
    has no name for, and if the file cannot be written.
    """
    path = expand_user(path)
    table = table_of(leaves, layout)
    arrays = {leaf: np.asarray(array, np.float32) for leaf, array in leaves.items()}
    about = {"format": "pt", "layout": layout}
    write_tensors(path, to_theirs(arrays, table), about)


def table_of(paths: Iterable[str], layout: str) -> Table:
    """Returns the rename table of a layout for leaves of these paths.

    Raises UserError for an unknown layout, and for a path that the layout has no name for.
    """
    if layout not in TABLES:
        raise unknown("layout", layout, TABLES)
    table = TABLES[layout]
    own = {"ln": LIFT_LN, "bitfit": LIFT_BIAS}.get(path_rule(paths))
    if layout == "lift" and own:
        table = own + [rule for rule in table if rule not in LIFT_BLOCK]
    patterns = [pattern for pattern, _, _ in table]
    unnamed = [path for path in paths if not any(re.fullmatch(p, path) for p in patterns)]
    if unnamed:
        raise UserError(
            f"The checkpoints of {layout} have no name for {', '.join(unnamed[:3])}"
            f"{', ...' * (len(unnamed) > 3)}: they hold {', '.join(known_tuners(layout))} and the "
            "classifier's weight."
        )
    return table


def _open(path: Path) -> tuple[dict[str, np.ndarray], Contents, dict[str, np.ndarray]]:
    """Opens a checkpoint; returns (tensors, contents, masks).

    Names have their key in front. The masks mark the entries that aft trains, and only LIFT+ saves
    them. Raises UserError if the file cannot be read or is of another kind.
    """
    tensors = _tensors(path)
    lift = any(re.match(r"head\.|tuner\.\w+_(list|tuned)\.", name) for name in tensors)
    layout = "lift" if lift else "lift_plus"
    masks = {
        name: tensors.pop(name) for name in [*tensors] if re.search(r"\.masked_\w+\.mask$", name)
    }
    table = TABLES[layout] + (LIFT_LN + LIFT_BIAS if layout == "lift" else [])
    rules = [(_regex(name), pattern) for pattern, name, _ in table]
    ours, foreign = {}, {}
    for name, tensor in tensors.items():
        filled = {
            fill(pattern, match.groups()): pattern
            for regex, pattern in rules
            if (match := regex.fullmatch(name))
        }
        paths = [path for path, pattern in filled.items() if re.fullmatch(pattern, path)]
        ours |= dict.fromkeys(paths, tensor.shape)
        if not any(re.match(r"visual/|head/", path) for path in paths):
            foreign[_kind(name)] = True
    return tensors, contents_of(layout, ours, foreign), masks


def _tensors(path: Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a checkpoint. Raises UserError if there are none, or anything else."""
    if torch_archive.is_torch_file(path):
        saved = torch_archive.read(path).contents
        tensors = {
            f"{key}.{name}": tensor
            for key, group in (saved.items() if isinstance(saved, dict) else ())
            for name, tensor in (group.items() if isinstance(group, dict) else [("", group)])
        }
    else:
        tensors, _, _ = read_safetensors(path)
    # without empty arrays: LIFT+ saves one for a bias of which aft trains no entry
    tensors = {k: v for k, v in tensors.items() if not isinstance(v, np.ndarray) or v.size}
    others = [
        name.rstrip(".")
        for name, tensor in tensors.items()
        if not re.match(r"(tuner|head)\..", name) or not isinstance(tensor, np.ndarray)
    ]
    if others or not tensors:
        raise UserError(
            f"{path} is not a checkpoint of LIFT or LIFT+: expected tensors under the keys tuner "
            f"and head, found {', '.join(others[:3]) or 'none'}. Give the checkpoint.pth.tar of "
            "their training, or a file of `lift-jax export`."
        )
    return tensors


def _regex(name: str) -> re.Pattern[str]:
    """Returns the regular expression for the names that a rule's name stands for."""
    return re.compile(re.sub(r"\\\\\d", r"(\\w+)", re.escape(name)))


def _kind(name: str) -> str:
    """Returns the authors' word for the part of a name: lora for "tuner.lora_list.0.q.lora_A"."""
    if name in ("head.bias", "tuner.classifier.bias"):
        return "a classifier with bias"
    prefix = r"(tuner|head)\.(image_encoder\.)?(blocks\.\d+\.)?((attn|mlp)\.)?"
    return re.sub(prefix, "", name, count=1).split(".")[0].removesuffix("_list")
