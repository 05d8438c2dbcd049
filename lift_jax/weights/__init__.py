"""Pre-trained weights: `load_backbone` finds, checks and loads them, from files or the hub."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx

from lift_jax.errors import UserError
from lift_jax.models import tree
from lift_jax.models.clip import Clip, ClipConfig
from lift_jax.models.text import TextConfig
from lift_jax.models.vit import VisionConfig
from lift_jax.weights import huggingface, hub
from lift_jax.weights.tokenizer import Tokenizer

# random weights of the smallest sizes that have more than one of everything, for `:debug` runs
DEBUG = ClipConfig(
    vision=VisionConfig(resolution=32, patch=8, width=32, layers=2, heads=2, mlp=64),
    text=TextConfig(vocab=512, context=16, width=32, layers=2, heads=2, mlp=64),
    embed=16,
)


def load_backbone(name_or_path: str | Path, dtype=None, **sizes: int) -> Clip:
    """Loads a CLIP: a name ('clip_vit_b16', 'demo'), a Hugging Face folder, or a hub name.

    'debug' gives small random weights. `dtype` is that of the weights and of the computation,
    float32 unless given. `sizes` are for sources that do not say theirs; Hugging Face's config.json
    says all, so that any is refused. Raises UserError if the source cannot be had or read, or if a
    weight is missing, left over, of the wrong shape or not finite.
    """
    if sizes:
        raise UserError(
            f"{name_or_path} states its own sizes in config.json; leave out {', '.join(sizes)}."
        )
    if str(name_or_path) == "debug":
        graph, leaves = tree.flatten(Clip(DEBUG, rngs=nnx.Rngs(0)))
        arrays = {path: leaf[...] for path, leaf in leaves.items()}
    else:
        folder = hub.folder_of(str(name_or_path))
        config = huggingface.read_config(folder)
        abstract = nnx.eval_shape(lambda: Clip(config, rngs=nnx.Rngs(0)))
        graph, leaves = tree.flatten(abstract)
        shapes = {path: leaf.shape for path, leaf in leaves.items()}
        arrays = huggingface.read_weights(folder, shapes)
    return tree.merge(graph, {p: jnp.asarray(a, dtype or jnp.float32) for p, a in arrays.items()})


def save_backbone(clip: Clip, folder: str | Path, dtype=np.float32) -> None:
    """Writes a CLIP in Hugging Face's layout (without tokenizer), weights stored in `dtype`."""
    _, leaves = tree.flatten(clip)
    arrays = {path: np.asarray(leaf[...]).astype(dtype) for path, leaf in leaves.items()}
    huggingface.save(Path(folder), clip.config, arrays)


def load_tokenizer(name_or_path: str | Path, context: int) -> Tokenizer:
    """The tokenizer beside a backbone's weights; texts become rows of `context` ids."""
    name = "demo" if str(name_or_path) == "debug" else str(name_or_path)
    return Tokenizer(hub.folder_of(name), context)
