"""The conversion of a source of weights into one file with our leaves.

The first of the formats (formats/) that recognises a source (files/source.py) reads its sizes and
gives a rename table, which a strict engine (rename.py) applies. The leaves are written as a
converted file (native.py).
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from flax import nnx
from numpy.typing import DTypeLike

from lift_jax.errors import UserError, shown
from lift_jax.models import tree
from lift_jax.models.backbone import Backbone, BackboneConfig
from lift_jax.models.vit.config import VisionConfig
from lift_jax.output.terminal import Terminal, track
from lift_jax.parallel import memory
from lift_jax.parallel.memory import Need
from lift_jax.weights import expected, native, positions, rename
from lift_jax.weights.files.source import Source
from lift_jax.weights.formats import (
    declared,
    dino,
    families,
    huggingface,
    openai,
    openclip,
    others,
    siglip,
    timm,
    vits,
)


class Format(Protocol):
    """A module of formats/: one way of naming, storing and describing weights."""

    @property
    def SIZES(self) -> tuple[str, ...]:
        """The sizes that a source of this format does not state, and a caller may give."""
        ...

    @property
    def IGNORED(self) -> tuple[str, ...]:
        """Patterns of the names that are left out.

        A format may also have TEXTS, further ones that are left out without a text tower.
        """
        ...

    def recognises(self, source: Source) -> bool:
        """Returns True if the source may be of this format."""
        ...

    @property
    def read_config(self) -> Callable[..., BackboneConfig]:
        """The function that reads the sizes of a source, given the source and SIZES by name."""
        ...

    def table(self, source: Source) -> rename.Table:
        """Returns the rename table (rename.py) of the source."""
        ...

    def resize(self, source: Source) -> str:
        """Returns how the source's library interpolates position embeddings (positions.py)."""
        ...


FORMATS: tuple[Format, ...] = (huggingface, siglip, vits, openclip, dino, timm, openai)


def format_of(source: Source) -> Format:
    """Returns the first format that recognises the source. Raises UserError if there is none."""
    others.check(source)
    for form in FORMATS:
        if form.recognises(source):
            return form
    kind = source.config.get("model_type") or source.config.get("architecture")
    says = (
        f"its config.json says {shown(kind)}"
        if kind
        else f"its names begin {first_names(source.tensors)}"
    )
    raise UserError(
        f"{source.where} is not a supported model: {says}. Give one of CLIP (OpenAI, Hugging Face, "
        "OpenCLIP), SigLIP, ViT or MAE (Hugging Face), DINOv2, DINOv3, or a ViT or ResNet of timm."
    )


def read_sizes(
    source: Source, form: Format, mean: Any = None, std: Any = None, **sizes: Any
) -> BackboneConfig:
    """Returns the sizes of a source by its format, with notes on what it does not state.

    `mean` and `std` replace those of the source. Raises UserError as the format's `read_config`,
    and for sizes that its tensors cannot have.
    """
    config = form.read_config(source, **sizes)
    given = {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in (("mean", mean), ("std", std))
        if value is not None
    }
    vision, notes = config.vision, source.notes
    if len(given) == 1:
        raise UserError(
            f"{next(iter(given))} is given alone (mean=, std=; --mean, --std): give both, which "
            "normalise the images together."
        )
    if given:
        names = ("mean", "std")
        values = declared.statistics(source.where + ":", given, names, vision.mean, vision.std)
        vision = dataclasses.replace(vision, **values)
        notes += (f"Images are normalised by {families.described(**values)}, as given.",)
    elif config.text is None and not families.stated(source):
        notes += (families.note(source, config),)
    config = dataclasses.replace(config, vision=vision, notes=(*notes, *config.notes))
    expected.check(config, source.tensors, source.where)
    return config


@functools.lru_cache(maxsize=4)
def abstract_backbone(
    config: BackboneConfig,
) -> tuple[nnx.GraphDef[Backbone], dict[str, nnx.Variable]]:
    """Returns (static graph, leaves by path) of a backbone, without values."""
    return tree.flatten(nnx.eval_shape(lambda: Backbone(config, rngs=tree.NoDraws(0))))


def abstract(config: BackboneConfig) -> dict[str, nnx.Variable]:
    """Returns a backbone's leaves by path, with shapes and dtypes but without values."""
    return abstract_backbone(config)[1]


def write(
    source: Source, file: Path, dtype: DTypeLike | None, resolution: int = 0, **sizes: Any
) -> BackboneConfig:
    """Converts a source to a file, one leaf in memory at a time; returns the sizes.

    `resolution` 0 keeps the pre-training's. Raises UserError as `load_backbone` does, and OSError
    if the file cannot be written.
    """
    form = format_of(source)
    _check_sizes(form, source.where, sizes)
    stored = read_sizes(source, form, **sizes)
    table, method = form.table(source), form.resize(source)
    shapes = {path: leaf.shape for path, leaf in abstract(stored).items()}
    ignored = (*form.IGNORED, *(getattr(form, "TEXTS", ()) if stored.text is None else ()))
    notes = (*stored.notes, *_left_out(source, ignored, table, shapes))
    config = dataclasses.replace(stored, notes=notes)
    config = _at_resolution(config, resolution or stored.vision.resolution, shapes)
    kinds = _kinds(source, table, shapes, config, dtype)

    def leaves() -> Iterator[tuple[str, np.ndarray]]:
        ours = rename.to_ours(source.tensors, shapes, table, source.where, ignored)
        for path, leaf in ours:
            if path.endswith("/positions") and leaf.shape != kinds[path].shape:
                before = len(leaf) - stored.vision.grid**2
                leaf = positions.resize(leaf, config.vision.grid, before, method)
            yield path, leaf
            source.release()

    console = Terminal(stderr=True)
    tracked = track(
        leaves(), f"Converting {Path(source.where).name}", len(kinds), console=console,
        disable=not console.is_terminal,
    )  # fmt: skip
    native.write(file, config, tracked, kinds)
    return config


def _check_sizes(form: Format, where: str, sizes: Mapping[str, Any]) -> None:
    """Raises UserError for a size that a source of the format does not take."""
    for size in sizes:
        if size not in (*form.SIZES, "mean", "std"):
            takes = (
                f"takes {', '.join(form.SIZES[:-1])} and {form.SIZES[-1]} alone"
                if form.SIZES
                else "states all its sizes itself"
            )
            raise UserError(f"{where} {takes}; leave out {size}={sizes[size]}.")


def _left_out(
    source: Source,
    ignored: Iterable[str],
    table: rename.Table,
    shapes: Mapping[str, tuple[int, ...]],
) -> tuple[str, ...]:
    """Returns a note on the weights that are ignored, if there are any. Integers are no weights."""
    used = {rename.their_name(path, table)[0] for path in shapes}
    dropped = [
        name
        for name in rename.ignored(source.tensors, ignored)
        if name not in used and not np.issubdtype(source.tensors[name].dtype, np.integer)
    ]
    if not dropped:
        return ()
    names = ", ".join(dropped[:4]) + (", ..." if len(dropped) > 4 else "")
    return (f"Left out of {source.where} ({len(dropped)}): {names}.",)


def _at_resolution(
    config: BackboneConfig, resolution: int, shapes: Mapping[str, tuple[int, ...]]
) -> BackboneConfig:
    """Returns the sizes for images of another resolution in pixels, with a note on the change.

    Raises UserError unless the resolution is a multiple of the patch (of a ResNet's total stride).
    """
    vision = config.vision
    if resolution == vision.resolution:
        return config
    multiple = vision.resolution // vision.grid
    if resolution % multiple or resolution < multiple:
        raise UserError(
            f"resolution (model.resolution) is {resolution}; it must be a multiple of {multiple}."
        )
    changed = dataclasses.replace(vision, resolution=resolution)
    if isinstance(vision, VisionConfig) and vision.has_positions:
        size = 4 * changed.grid**2 * vision.width
        memory.check([Need("resolution", resolution, size, "position embeddings")])
    positioned = any(path.endswith("/positions") for path in shapes if path.startswith("visual/"))
    how = ": position embeddings interpolated" if positioned else ""
    note = (
        f"Pre-trained at {vision.resolution} pixels ({vision.grid} x {vision.grid} places), "
        f"used at {resolution} ({changed.grid} x {changed.grid}){how}."
    )
    return dataclasses.replace(config, vision=changed, notes=(*config.notes, note))


def _kinds(
    source: Source,
    table: rename.Table,
    shapes: Mapping[str, tuple[int, ...]],
    config: BackboneConfig,
    dtype: DTypeLike | None,
) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns shape and dtype of every leaf of the converted file.

    `shapes` are those of the source's leaves and `config` the sizes of the file. With `dtype` None
    a leaf keeps the source's dtype. It is float32 if the file cannot hold that dtype, or if the
    leaf is interpolated.
    """
    kinds = {}
    for path, leaf in abstract(config).items():
        stored = source.tensors.get(rename.their_name(path, table)[0])
        kept = np.float32
        if stored is not None and stored.dtype.name in native.DTYPES and leaf.shape == shapes[path]:
            kept = stored.dtype
        kinds[path] = jax.ShapeDtypeStruct(leaf.shape, np.dtype(dtype or kept))
    return kinds


def first_names(names: Iterable[str]) -> str:
    """Returns the first three names in alphabetical order, for messages."""
    return ", ".join(sorted(names)[:3]) or "nowhere: it holds no tensor"
