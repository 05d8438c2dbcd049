"""Loading and saving of pre-trained backbones.

`load_backbone` finds a source (hub.py), converts it to a copy in the cache (conversion.py), and
loads that copy (native.py). Later loads of the source begin with the copy.
"""

import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from flax import nnx
from numpy.typing import DTypeLike

from lift_jax.errors import DiskError, UserError
from lift_jax.models import tree
from lift_jax.models.backbone import Backbone, BackboneConfig
from lift_jax.models.text import TextConfig
from lift_jax.models.vit.config import VisionConfig
from lift_jax.storage import atomic, disk
from lift_jax.storage.names import expand_user
from lift_jax.weights import conversion, hub, native, tokenizer
from lift_jax.weights.conversion import abstract, abstract_backbone
from lift_jax.weights.files import adapters, folding
from lift_jax.weights.files.adapters import Adapter
from lift_jax.weights.files.source import ADAPTER, CONFIG, PREPROCESSOR, Source, open_source
from lift_jax.weights.formats import written
from lift_jax.weights.formats.written import Layout
from lift_jax.weights.tokenizer import Tokenizer

# Puts a leaf (path, values as stored) on its devices.
Place = Callable[[str, np.ndarray], jax.Array]

# The sizes of the backbone "debug", the smallest with more than one of everything.
DEBUG = BackboneConfig(
    vision=VisionConfig(resolution=32, patch=8, width=32, layers=2, heads=2, mlp=64),
    text=TextConfig(vocab=512, context=16, width=32, layers=2, heads=2, mlp=64),
    embed=16,
)


def load_backbone(
    name_or_path: str | Path,
    dtype: Any = None,
    *,
    place: Place | None = None,
    tell: Callable[[str], None] | None = None,
    **sizes: Any,
) -> Backbone:
    """Loads a backbone by name ('clip_vit_b16', 'demo'), from the hub, a folder or a file.

    The sources are CLIP ViT and ResNet of OpenAI, Hugging Face and OpenCLIP; SigLIP and SigLIP 2;
    ViT, DINOv2 and DINOv3 of Hugging Face; DINOv2's and DINOv3's own files; ViT and ResNet of timm,
    and others that are named like these (DINO, iBOT, MAE, MoCo, DeiT, torchvision's ResNets); a
    folder that `convert` wrote; and 'debug', which is small with random weights.
    'owner/repository@revision' pins a hub revision. A folder or repository with an adapter of peft
    is its LoRA folded into the backbone that it names.

    Args:
        name_or_path: the name or path of the source.
        dtype: the dtype of the weights and of the computation; float32 by default.
        place: puts a leaf (path, values as stored) on its devices; replaces `dtype`.
        tell: is given each note on the loading. By default a note that says what was taken because
            the source does not state it is logged as a warning, and the others as infos.
        **sizes: `resolution` in pixels, if not the pre-training's; `mean` and `std` of the images'
            red, green and blue values, three numbers each, if not as the weights say; and sizes
            that the source does not state: `heads`, `text_heads`, `eps` and `activation` of bare
            state dicts.

    Raises:
        UserError: if the source cannot be downloaded or read, or is of no known kind; if a weight
            is missing, left over, of the wrong shape or not finite; for sizes that the source
            does not take.
    """
    backbone = _found(str(name_or_path), dtype, place, sizes)
    for note in backbone.config.notes:
        (tell or _log)(note)
    return backbone


def _log(note: str) -> None:
    """Logs a note on the loading, as a warning if it says what was taken of several readings."""
    (logging.warning if "taken" in note.lower() else logging.info)("%s", note)


def _found(name: str, dtype: Any, place: Place | None, sizes: dict[str, Any]) -> Backbone:
    """Loads a backbone as `load_backbone` does, and says nothing of its notes."""
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
    converted = _native_file(path)
    if converted is None:
        return _load_through_cache(_opened(path), place, sizes)
    if sizes:
        raise UserError(
            f"{converted} is converted, and states all its sizes itself; leave out "
            f"{', '.join(sizes)}, or give the source that it was converted from."
        )
    return _load(converted, place)


def _load_through_cache(source: Source, place: Place, sizes: dict[str, Any]) -> Backbone:
    """Loads a source from its converted copy in the cache, which is written first where needed.

    A damaged copy is written again. If the cache cannot be written, the copy is temporary.
    """
    file = native.cached(source.files, sizes)
    if native.describe(file) is not None:
        try:
            return _load(file, place)
        except UserError as e:
            logging.warning("%s Converting %s again.", e, source.where)
            file.unlink(missing_ok=True)
    try:
        conversion.write(source, file, None, **sizes)
    except DiskError as e:
        logging.warning("Cannot keep a converted copy of %s. %s", source.path, e)
        return _load_once(source, place, sizes)
    for outdated in native.other_versions(file):
        with suppress(OSError):  # it may stay
            outdated.unlink()
    return _load(file, place)


def _load_once(source: Source, place: Place, sizes: dict[str, Any]) -> Backbone:
    """Loads a source without a converted copy in the cache."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / native.NAME
        conversion.write(source, file, None, **sizes)
        return _load(file, place)


def sizes(name_or_path: str | Path) -> BackboneConfig:
    """Returns the sizes of a backbone on this machine, without reading its weights.

    Raises UserError if the backbone would have to be downloaded, and as `load_backbone` does.
    """
    if str(name_or_path) == "debug":
        return DEBUG
    path = _here(str(name_or_path))
    file = _native_file(path)
    described = native.describe(file) if file is not None else None
    if described is not None:
        return described[0]
    source = _opened(path, _here)
    return conversion.read_sizes(source, conversion.format_of(source))


def _here(name: str) -> Path:
    """Returns the path of a backbone. Raises UserError if it is not on this machine."""
    path = hub.DEMO if name == "demo" else expand_user(name)
    if not path.exists():
        raise UserError(
            f"The backbone {name} is not on this machine. Give its file or folder, or load it once "
            "by name."
        )
    return path


def _opened(path: Path, locate: Callable[[str], Path] = hub.locate) -> Source:
    """Opens a source, or an adapter of peft with the weights that it was trained on.

    `locate` finds these. Raises UserError as `open_source` and `folding.fold`.
    """
    folder = adapters.folder_of(path)
    if folder is None:
        return open_source(path)
    adapter = adapters.read(folder)
    base = _base(adapter, locate)
    source = open_source(base)
    folding.fold(source, adapter)
    return source


def _base(adapter: Adapter, locate: Callable[[str], Path] = hub.locate) -> Path:
    """Returns the file or folder of the weights that an adapter was trained on.

    Raises UserError if they cannot be found, or are of a kind that an adapter cannot change.
    """
    name = adapters.base_of(adapter)
    remedy = f"Write another name, or its folder, as {adapters.BASE} in {adapter.folder / ADAPTER}."
    try:
        path = locate(name)
    except UserError as e:
        raise UserError(f"{adapter.folder} is an adapter of {name:.300}. {e} {remedy}") from e
    if _native_file(path) is not None or adapters.folder_of(path) is not None:
        kind = "another adapter" if adapters.folder_of(path) else "converted, under other names"
        raise UserError(f"{adapter.folder} is an adapter of {path}, which is {kind}. {remedy}")
    return path


def convert(
    source: str | Path, folder: str | Path, dtype: DTypeLike | None = None, **sizes: Any
) -> BackboneConfig:
    """Converts a source to a folder for `load_backbone`, and returns the sizes.

    The folder gets backbone.safetensors and the tokenizer files. `dtype` None keeps the stored
    precision, and `sizes` are those of `load_backbone`. Raises UserError as `load_backbone` does,
    and if the folder cannot be written.
    """
    folder = disk.make_folder(expand_user(folder), "DEST")
    path = hub.locate(str(source))
    if _native_file(path) is not None:
        raise UserError(
            f"{path} is a converted backbone already. Use it as it is, or give the source that it "
            "was converted from."
        )
    opened = _opened(path)
    with atomic.replacement(folder / native.NAME) as partial:  # with it the folder is complete
        config = conversion.write(opened, partial, dtype, **sizes)
        _copy_tokenizer(path, config, folder)
    return config


def save_converted(backbone: Backbone, folder: str | Path, source: str | Path) -> None:
    """Writes a backbone in memory as `convert` writes a source, in float32.

    The tokenizer files are copied from `source`, the name or path that the backbone was loaded
    from. Raises UserError if the folder cannot be written, or if the backbone has leaves that its
    kind does not have.
    """
    arrays, folder = _checked_leaves(backbone, source), Path(folder)
    kinds = {p: jax.ShapeDtypeStruct(a.shape, np.dtype(np.float32)) for p, a in arrays.items()}
    # last, for with this file the folder is complete
    _copy_tokenizer(_located(source), backbone.config, folder)
    native.write(folder / native.NAME, backbone.config, arrays.items(), kinds)


def save_for_transformers(
    backbone: Backbone, folder: Path, source: str | Path, **images: Any
) -> Layout:
    """Writes a backbone as `transformers` loads it, in float32, and its tokenizer files.

    `images` are those of `written.save`, which also says what is returned. Raises UserError as
    `save_converted` does, and if transformers has no class for the backbone.
    """
    written.layout_of(backbone.config)
    arrays = _checked_leaves(backbone, source)
    _copy_tokenizer(_located(source), backbone.config, folder)
    return written.save(folder, backbone.config, arrays, **images)


def load_saved(folder: Path) -> Backbone:
    """Loads a folder of `save_for_transformers`, without a copy in the cache."""
    return _load_once(open_source(folder), lambda _, array: jax.numpy.asarray(array), {})


def _checked_leaves(backbone: Backbone, source: str | Path) -> dict[str, np.ndarray]:
    """Returns the leaves of a backbone. Raises UserError for some that its kind does not have."""
    _, leaves = tree.split(backbone)
    if extra := leaves.keys() - abstract(backbone.config).keys():
        names = conversion.first_names(extra)
        raise UserError(
            f"{source} has no place for {names} (of {len(extra)}): its layers lack such weights, "
            "which the tuned weights need. Keep the tuned weights in their own file."
        )
    return {path: np.asarray(leaf) for path, leaf in leaves.items()}


def _located(source: str | Path) -> Path:
    """Returns the file or folder of a backbone, of "debug" that with its tokenizer."""
    return hub.locate("demo" if str(source) == "debug" else str(source))


def _copy_tokenizer(path: Path, config: BackboneConfig, folder: Path) -> None:
    """Copies the tokenizer files and the image settings beside a source with a text tower."""
    beside = _beside(path)
    for name in (*tokenizer.FILES, PREPROCESSOR):
        if config.text is not None and (beside / name).exists():
            atomic.write_bytes(folder / name, (beside / name).read_bytes())


def _beside(path: Path) -> Path:
    """Returns the folder with what lies beside the weights: of an adapter its base's, mostly."""
    folder = adapters.folder_of(path)
    if folder is not None and not tokenizer.find(folder):
        path = _base(adapters.read(folder))
    return path if path.is_dir() else path.parent


def _native_file(path: Path) -> Path | None:
    """Returns the converted file at a path, or None if the path is of another source."""
    file = path / native.NAME if path.is_dir() else path
    return file if file.is_file() and native.describe(file) is not None else None


def _load(file: Path, place: Place) -> Backbone:
    """Loads a converted file. Raises UserError if it is damaged or of another kind."""
    described = native.describe(file)
    if described is None:
        raise UserError(f"{file} is not a converted backbone. Convert the source again.")
    config, checksums = described
    leaves = native.load(file, checksums, place)
    shapes = {path: leaf.shape for path, leaf in abstract(config).items()}
    if {path: leaf.shape for path, leaf in leaves.items()} != shapes:
        raise UserError(
            f"{file}: its weights have other names or shapes than its sizes say. Delete the file "
            "and convert it again."
        )
    return _assemble(config, leaves, checksums)


def _assemble(config: BackboneConfig, leaves: tree.Tree, checksums: dict[str, str]) -> Backbone:
    """Returns the backbone of these sizes and leaves, with its fingerprints."""
    backbone = tree.merge(abstract_backbone(config)[0], leaves)
    backbone.fingerprint = native.fingerprint(config, checksums)
    backbone.text_fingerprint = native.fingerprint(config, checksums, texts=True)
    return backbone


def _random_leaves() -> tree.Tree:
    """Draws the weights of the backbone "debug"."""
    return tree.split(Backbone(DEBUG, rngs=nnx.Rngs(0)))[1]


def save_backbone(backbone: Backbone, folder: str | Path, dtype: DTypeLike = np.float32) -> None:
    """Writes a backbone in Hugging Face's layout, with weights in `dtype` and without tokenizer.

    Raises UserError if transformers has no class for it.
    """
    _, leaves = tree.split(backbone)
    arrays = {path: np.asarray(leaf).astype(dtype) for path, leaf in leaves.items()}
    written.save(Path(folder), backbone.config, arrays)


def load_tokenizer(name_or_path: str | Path, context: int, vocab: int = 0) -> Tokenizer:
    """Loads the tokenizer beside a backbone's weights.

    Args:
        name_or_path: the name or path of the backbone.
        context: the number of token ids in a row.
        vocab: the size of the text tower's vocabulary. If it is that of OpenAI's CLIP, weights
            without a tokenizer and without a config.json beside them get OpenAI's, from the hub.

    Raises UserError if there is no tokenizer, or if it cannot be read or downloaded.
    """
    path = _located(name_or_path)
    folder = _beside(path)
    bare = path.is_file() or not (folder / CONFIG).exists()
    if bare and vocab == tokenizer.OPENAI and not tokenizer.find(folder):
        folder = hub.clip_tokenizer()
    return Tokenizer(folder, context)
