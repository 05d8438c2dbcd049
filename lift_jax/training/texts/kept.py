"""The text features of classes as files of the cache folder, where they take long to compute."""

import contextlib
import hashlib
from pathlib import Path

import jax
import numpy as np
import safetensors.numpy
from jaxtyping import Float, Int

from lift_jax.errors import UserError
from lift_jax.models import tree
from lift_jax.models.backbone import Backbone
from lift_jax.parallel import exchange
from lift_jax.storage.cache import cache_folder
from lift_jax.storage.formats.tensors import write_tensors

VERSION = 2  # of the way in which the features are computed
NAME = "class_texts"


def file_of(
    backbone: Backbone, tokens: Int[np.ndarray, "n t"], sizes: Int[np.ndarray, " c"]
) -> Path | None:
    """Returns the file for the features of classes, which is named after all that they depend on.

    `sizes` is the number of texts of each class. Returns None where the weights have no
    fingerprint, and with several processes, which must start from the same bits.
    """
    if backbone.text is None or not backbone.text_fingerprint or exchange.count() > 1:
        return None
    _, leaves = tree.flatten(backbone.text)
    depends_on = (
        VERSION, backbone.text_fingerprint, backbone.config.text, backbone.config.embed,
        hashlib.sha256(tokens.tobytes()).hexdigest(), tokens.shape, tokens.dtype.name,
        sizes.tolist(), sorted({leaf[...].dtype.name for leaf in leaves.values()}),
        jax.__version__, jax.devices()[0].device_kind,
    )  # fmt: skip
    key = hashlib.sha256(repr(depends_on).encode()).hexdigest()
    return cache_folder() / "texts" / f"{key}.safetensors"


def read(path: Path, shape: tuple[int, int]) -> Float[np.ndarray, "c e"] | None:
    """Returns the features in a file; None if there is none that can be read."""
    try:
        with safetensors.safe_open(path, "np") as file:
            found, checksum = file.get_tensor(NAME), (file.metadata() or {}).get("sha256")
    except (OSError, safetensors.SafetensorError):
        return None
    whole = found.shape == shape and found.dtype == np.float32 and checksum == _sum(found)
    return found if whole else None


def write(path: Path, features: Float[np.ndarray, "c e"]) -> None:
    """Keeps the features in a file. Without a folder that can be written nothing is kept."""
    with contextlib.suppress(OSError, UserError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(path, {NAME: features}, {"sha256": _sum(features)})


def _sum(features: np.ndarray) -> str:
    return hashlib.sha256(features.tobytes()).hexdigest()
