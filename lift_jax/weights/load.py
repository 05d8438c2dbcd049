"""Loading of pre-trained backbones and their tokenizers.

`load_backbone` finds a source (sources.py), converts it to a copy in the cache (conversion.py), and
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

from lift_jax.errors import DiskError, UserError
from lift_jax.models import tree
from lift_jax.models.backbone import Backbone, BackboneConfig
from lift_jax.models.text import TextConfig
from lift_jax.models.vit.config import VisionConfig
from lift_jax.weights import conversion, native, sources, tokenizer
from lift_jax.weights.conversion import abstract, abstract_backbone
from lift_jax.weights.files.source import CONFIG, Source, open_source
from lift_jax.weights.names import hub
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
    converted = sources.native_file(path)
    if converted is None:
        return _load_through_cache(sources.opened(path), place, sizes)
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
    path = sources.here(str(name_or_path))
    file = sources.native_file(path)
    described = native.describe(file) if file is not None else None
    if described is not None:
        return described[0]
    source = sources.opened(path, sources.here)
    return conversion.read_sizes(source, conversion.format_of(source))


def load_saved(folder: Path) -> Backbone:
    """Loads a folder of `save_for_transformers`, without a copy in the cache."""
    return _load_once(open_source(folder), lambda _, array: jax.numpy.asarray(array), {})


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


def load_tokenizer(name_or_path: str | Path, context: int, vocab: int = 0) -> Tokenizer:
    """Loads the tokenizer beside a backbone's weights.

    Args:
        name_or_path: the name or path of the backbone.
        context: the number of token ids in a row.
        vocab: the size of the text tower's vocabulary. If it is that of OpenAI's CLIP, weights
            without a tokenizer and without a config.json beside them get OpenAI's, from the hub.

    Raises UserError if there is no tokenizer, or if it cannot be read or downloaded.
    """
    path = sources.located(name_or_path)
    folder = sources.beside(path)
    bare = path.is_file() or not (folder / CONFIG).exists()
    if bare and vocab == tokenizer.OPENAI and not tokenizer.find(folder):
        folder = hub.clip_tokenizer()
    return Tokenizer(folder, context)
