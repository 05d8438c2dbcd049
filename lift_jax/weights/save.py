"""Saving of backbones: converted, as `load_backbone` reads them, or as `transformers` does."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.typing import DTypeLike

from lift_jax.errors import UserError
from lift_jax.models import tree
from lift_jax.models.backbone import Backbone, BackboneConfig
from lift_jax.storage import atomic, disk
from lift_jax.storage.names import expand_user
from lift_jax.weights import conversion, native, sources, tokenizer
from lift_jax.weights.conversion import abstract
from lift_jax.weights.files.source import PREPROCESSOR
from lift_jax.weights.formats import written
from lift_jax.weights.formats.written import Layout
from lift_jax.weights.names import hub


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
    if sources.native_file(path) is not None:
        raise UserError(
            f"{path} is a converted backbone already. Use it as it is, or give the source that it "
            "was converted from."
        )
    opened = sources.opened(path)
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
    _copy_tokenizer(sources.located(source), backbone.config, folder)
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
    _copy_tokenizer(sources.located(source), backbone.config, folder)
    return written.save(folder, backbone.config, arrays, **images)


def save_backbone(backbone: Backbone, folder: str | Path, dtype: DTypeLike = np.float32) -> None:
    """Writes a backbone in Hugging Face's layout, with weights in `dtype` and without tokenizer.

    Raises UserError if transformers has no class for it.
    """
    _, leaves = tree.split(backbone)
    arrays = {path: np.asarray(leaf).astype(dtype) for path, leaf in leaves.items()}
    written.save(Path(folder), backbone.config, arrays)


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


def _copy_tokenizer(path: Path, config: BackboneConfig, folder: Path) -> None:
    """Copies the tokenizer files and the image settings beside a source with a text tower."""
    beside = sources.beside(path)
    for name in (*tokenizer.FILES, PREPROCESSOR):
        if config.text is not None and (beside / name).exists():
            atomic.write_bytes(folder / name, (beside / name).read_bytes())
