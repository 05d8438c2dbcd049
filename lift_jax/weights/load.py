"""Pre-trained weights: `load_backbone` finds, checks, converts and loads them.

A source (source.py) is recognised by one of the formats, whose rename table a strict engine
(rename.py) applies. The result is kept as a converted copy (native.py), from which it is loaded.
"""

import dataclasses
import functools
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from absl import logging
from flax import nnx
from numpy.typing import DTypeLike
from rich.console import Console
from rich.progress import track

from lift_jax.errors import UserError
from lift_jax.models import tree
from lift_jax.models.backbone import Backbone, BackboneConfig
from lift_jax.models.text import TextConfig
from lift_jax.models.vit import VisionConfig
from lift_jax.weights import hub, native, positions, rename, tokenizer
from lift_jax.weights.files.source import PREPROCESSOR, Source, open_source
from lift_jax.weights.formats import huggingface, openai, openclip, siglip, timm, vits
from lift_jax.weights.tokenizer import Tokenizer

Place = Callable[[str, np.ndarray], jax.Array]


class Format(Protocol):
    """What a module of a format has."""

    @property
    def SIZES(self) -> tuple[str, ...]:
        """What `load_backbone` takes because the source does not say it."""
        ...

    @property
    def IGNORED(self) -> tuple[str, ...]:
        """Patterns of names that are left out."""
        ...

    def recognises(self, source: Source) -> bool: ...

    @property
    def read_config(self) -> Callable[..., BackboneConfig]:
        """Of the source and the sizes given."""
        ...

    def table(self, source: Source) -> rename.Table: ...

    def resize(self, source: Source) -> str:
        """How its library resamples positions (positions.py)."""
        ...


FORMATS: tuple[Format, ...] = (huggingface, siglip, vits, openclip, timm, openai)

# random weights of the smallest sizes that have more than one of everything, for `:debug` runs
DEBUG = BackboneConfig(
    vision=VisionConfig(resolution=32, patch=8, width=32, layers=2, heads=2, mlp=64),
    text=TextConfig(vocab=512, context=16, width=32, layers=2, heads=2, mlp=64),
    embed=16,
)


def load_backbone(
    name_or_path: str | Path, dtype: Any = None, *, place: Place | None = None, **sizes: Any
) -> Backbone:
    """Loads a backbone by name ('clip_vit_b16', 'demo'), from the hub, a folder or a file.

    Sources: CLIP ViT and ResNet of OpenAI, Hugging Face and OpenCLIP, SigLIP and SigLIP 2, ViT,
    DINOv2 and DINOv3 of Hugging Face, ViT and ResNet of timm, what `convert` wrote, and 'debug',
    small random weights. 'owner/repository@revision' pins a hub revision.

    Args:
        dtype: of the weights and of the computation; float32 unless given.
        place: puts a leaf (path, values as stored) on its devices, in place of `dtype`.
        **sizes: `resolution` in pixels, where another than the pre-training's is wanted, and what
            the source does not say: `heads`, `text_heads`, ... of bare state dicts.

    Raises:
        UserError: if the source cannot be had or read, is of no known kind, or if a weight is
            missing, left over, of the wrong shape or not finite.
    """
    name = str(name_or_path)
    place = place or (
        lambda path, array: jax.device_put(array.astype(dtype or np.float32, copy=False))
    )
    if name == "debug":
        if sizes:
            raise UserError(f"debug states all its sizes itself; leave out {', '.join(sizes)}.")
        arrays = {path: np.asarray(leaf) for path, leaf in jax.jit(_random_leaves)().items()}
        checksums = {path: native.checksum(array) for path, array in arrays.items()}
        return _assemble(DEBUG, {p: place(p, a) for p, a in arrays.items()}, checksums)
    path = hub.locate(name)
    file = _native_file(path)
    if file is not None:
        if sizes:
            raise UserError(
                f"{file} is converted, and states all its sizes itself; leave out "
                f"{', '.join(sizes)}, or give the source that it was converted from."
            )
        return _load(file, place)
    source = open_source(path)
    file = native.cached(source.files, sizes)
    if native.describe(file) is not None:
        try:
            return _load(file, place)
        except UserError as e:
            logging.warning("%s Converting %s again.", e, source.where)
            file.unlink(missing_ok=True)
    try:
        _convert(source, file, None, **sizes)
    except OSError as e:
        logging.warning("Cannot keep a converted copy of %s in %s: %s.", name, file.parent, e)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / native.NAME
            _convert(source, file, None, **sizes)
            return _load(file, place)
    for old in file.parent.glob(f"{file.name.partition('-')[0]}-*.safetensors"):
        if old != file:  # of the same source, which has changed since
            old.unlink(missing_ok=True)
    return _load(file, place)


def sizes(name_or_path: str | Path) -> BackboneConfig:
    """The sizes of a backbone on this machine, without reading its weights.

    Raises UserError for one that would have to be downloaded, and as `load_backbone` does.
    """
    if str(name_or_path) == "debug":
        return DEBUG
    path = hub.DEMO if str(name_or_path) == "demo" else Path(name_or_path).expanduser()
    if not path.exists():
        raise UserError(f"The backbone {name_or_path} is not on this machine.")
    file = _native_file(path)
    described = native.describe(file) if file is not None else None
    if described is not None:
        return described[0]
    source = open_source(path)
    return _format_of(source).read_config(source)


def convert(
    source: str | Path, folder: str | Path, dtype: DTypeLike | None = None, **sizes: Any
) -> BackboneConfig:
    """Writes a source as `folder`/backbone.safetensors, with its tokenizer files, for
    `load_backbone`.

    `dtype` None keeps the stored precision. Raises UserError as `load_backbone` does, and if the
    folder cannot be written.
    """
    path, folder = hub.locate(str(source)), Path(folder)
    if _native_file(path) is not None:
        raise UserError(f"{path} is a converted backbone already.")
    opened = open_source(path)
    try:
        config = _convert(opened, folder / native.NAME, dtype, **sizes)
        _copy_tokenizer(path, config, folder)
    except OSError as e:
        raise UserError(f"Cannot write {folder}: {e}. Choose another folder or make room.") from e
    return config


def save_converted(backbone: Backbone, folder: str | Path, source: str | Path) -> None:
    """Writes a backbone that is at hand as `convert` writes a source, in float32.

    `source` is that it was loaded from, whose tokenizer files are copied. Raises UserError if the
    folder cannot be written, and for leaves that the backbone's kind does not have.
    """
    _, leaves = tree.flatten(backbone)
    kinds = {p: jax.ShapeDtypeStruct(v.shape, np.dtype(np.float32)) for p, v in leaves.items()}
    if more := leaves.keys() - abstract(backbone.config).keys():
        raise UserError(
            f"{source} has no place for {_some(more)} (of {len(more)}): its layers have no such "
            "weight, and what was tuned would need one."
        )
    name, folder = str(source), Path(folder)
    try:
        values = ((path, np.asarray(leaf[...])) for path, leaf in leaves.items())
        native.write(folder / native.NAME, backbone.config, values, kinds)
        _copy_tokenizer(hub.locate("demo" if name == "debug" else name), backbone.config, folder)
    except OSError as e:
        raise UserError(f"Cannot write {folder}: {e}. Choose another folder or make room.") from e


def _copy_tokenizer(path: Path, config: BackboneConfig, folder: Path) -> None:
    """Copies the tokenizer files beside a source."""
    beside = path if path.is_dir() else path.parent
    for name in (*tokenizer.FILES, PREPROCESSOR):
        if config.text is not None and (beside / name).exists():
            shutil.copyfile(beside / name, folder / name)


def _native_file(path: Path) -> Path | None:
    """The converted file at a path, or None if that is another source."""
    file = path / native.NAME if path.is_dir() else path
    return file if file.is_file() and native.describe(file) is not None else None


def _load(file: Path, place: Place) -> Backbone:
    described = native.describe(file)
    if described is None:
        raise UserError(f"{file} is not a converted backbone.")
    config, checksums = described
    for note in config.notes:
        logging.info(note)
    return _assemble(config, native.load(file, checksums, place), checksums)


def _assemble(config: BackboneConfig, leaves: tree.Tree, checksums: dict[str, str]) -> Backbone:
    backbone = tree.merge(_abstract(config)[0], leaves)
    backbone.fingerprint = native.fingerprint(config, checksums)
    backbone.text_fingerprint = native.fingerprint(config, checksums, texts=True)
    return backbone


def _random_leaves() -> tree.Tree:
    _, leaves = tree.flatten(Backbone(DEBUG, rngs=nnx.Rngs(0)))
    return {path: leaf[...] for path, leaf in leaves.items()}


@functools.lru_cache(maxsize=4)
def _abstract(config: BackboneConfig) -> tuple[nnx.GraphDef[Backbone], dict[str, nnx.Variable]]:
    return tree.flatten(nnx.eval_shape(lambda: Backbone(config, rngs=nnx.Rngs(0))))


def abstract(config: BackboneConfig) -> dict[str, nnx.Variable]:
    """A backbone's leaves by path, without values."""
    return _abstract(config)[1]


def _check_sizes(form: Format, where: str, sizes: Mapping[str, Any]) -> None:
    """Raises UserError for a size that the format states itself."""
    for size in sizes:
        if size not in form.SIZES:
            takes = (
                f"takes {', '.join(form.SIZES[:-1])} and {form.SIZES[-1]} alone"
                if form.SIZES
                else "states all its sizes itself"
            )
            raise UserError(f"{where} {takes}; leave out {size}={sizes[size]}.")


def _convert(
    source: Source, file: Path, dtype: DTypeLike | None, resolution: int = 0, **sizes: Any
) -> BackboneConfig:
    """Streams a source into a converted file; returns its sizes."""
    form = _format_of(source)
    _check_sizes(form, source.where, sizes)
    config = form.read_config(source, **sizes)
    vision = config.vision
    changed = vision
    notes = list(config.notes)
    table, resize = form.table(source), form.resize(source)
    shapes = {path: leaf.shape for path, leaf in abstract(config).items()}
    used = {rename.their_name(path, table)[0] for path in shapes}
    dropped = [
        name
        for name in rename.ignored(source.tensors, form.IGNORED)
        if name not in used and not np.issubdtype(source.tensors[name].dtype, np.integer)
    ]
    if dropped:
        shown = ", ".join(dropped[:4]) + (", ..." if len(dropped) > 4 else "")
        notes.append(f"Left out of {source.where} ({len(dropped)}): {shown}.")
    if resolution and resolution != vision.resolution:
        changed = dataclasses.replace(vision, resolution=resolution)
        multiple = vision.resolution // vision.grid
        if resolution % multiple or resolution < multiple:
            raise UserError(f"resolution is {resolution}; it must be a multiple of {multiple}.")
        positioned = any(path.endswith("/positions") for path in shapes if path[0] == "v")
        how = ": position embeddings interpolated" if positioned else ""
        notes.append(
            f"Pre-trained at {vision.resolution} pixels ({vision.grid} x {vision.grid} places), "
            f"used at {resolution} ({changed.grid} x {changed.grid}){how}."
        )
    config = dataclasses.replace(config, vision=changed, notes=tuple(notes))
    kinds = {}
    for path, leaf in abstract(config).items():
        stored = source.tensors.get(rename.their_name(path, table)[0])
        kept = np.float32
        if stored is not None and stored.dtype.name in native.DTYPES and leaf.shape == shapes[path]:
            kept = stored.dtype
        kinds[path] = jax.ShapeDtypeStruct(leaf.shape, np.dtype(dtype or kept))

    def leaves() -> Iterator[tuple[str, np.ndarray]]:
        ours = rename.to_ours(source.tensors, shapes, table, source.where, form.IGNORED)
        for path, leaf in ours:
            if path.endswith("/positions") and leaf.shape != kinds[path].shape:
                before = len(leaf) - vision.grid**2
                leaf = positions.resize(leaf, changed.grid, before, resize)
            yield path, leaf
            source.release()

    console = Console(stderr=True)
    shown = track(
        leaves(), f"Converting {Path(source.where).name}", len(kinds), console=console,
        transient=True, disable=not console.is_terminal,
    )  # fmt: skip
    native.write(file, config, shown, kinds)
    return config


def _format_of(source: Source) -> Format:
    """The first format that recognises the source."""
    for form in FORMATS:
        if form.recognises(source):
            return form
    kind = source.config.get("model_type") or source.config.get("architecture")
    says = f"its config.json says {kind!r}" if kind else f"its names begin {_some(source.tensors)}"
    raise UserError(
        f"{source.where} is of no kind that can be read: {says}. Expected CLIP (OpenAI, Hugging "
        "Face, OpenCLIP), SigLIP, ViT, DINOv2 or DINOv3 (Hugging Face), or ViT or ResNet of timm."
    )


def _some(names: Any) -> str:
    return ", ".join(sorted(names)[:3]) or "nowhere: it holds no tensor"


def save_backbone(backbone: Backbone, folder: str | Path, dtype: DTypeLike = np.float32) -> None:
    """Writes a CLIP ViT in Hugging Face's layout (without tokenizer), weights in `dtype`."""
    _, leaves = tree.flatten(backbone)
    arrays = {path: np.asarray(leaf[...]).astype(dtype) for path, leaf in leaves.items()}
    huggingface.save(Path(folder), backbone.config, arrays)


def load_tokenizer(name_or_path: str | Path, context: int, vocab: int = 0) -> Tokenizer:
    """The tokenizer beside a backbone's weights; texts become rows of `context` ids.

    Where a single file has none beside it, and the text tower has the `vocab` of OpenAI's CLIP,
    that one is taken from the hub. Raises UserError if there is none.
    """
    path = hub.locate("demo" if str(name_or_path) == "debug" else str(name_or_path))
    folder = path if path.is_dir() else path.parent
    if path.is_file() and vocab == tokenizer.OPENAI and not tokenizer.find(folder):
        folder = hub.clip_tokenizer()
    return Tokenizer(folder, context)
