"""Pre-trained weights: `load_backbone` finds, checks and loads them, from files or the hub."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax import nnx
from numpy.typing import DTypeLike

from lift_jax.errors import UserError
from lift_jax.models import tree
from lift_jax.models.clip import Clip, ClipConfig
from lift_jax.models.text import TextConfig
from lift_jax.models.vit import VisionConfig
from lift_jax.weights import hub, huggingface, openai
from lift_jax.weights.rename import to_ours
from lift_jax.weights.tokenizer import Tokenizer

# random weights of the smallest sizes that have more than one of everything, for `:debug` runs
DEBUG = ClipConfig(
    vision=VisionConfig(resolution=32, patch=8, width=32, layers=2, heads=2, mlp=64),
    text=TextConfig(vocab=512, context=16, width=32, layers=2, heads=2, mlp=64),
    embed=16,
)


def load_backbone(name_or_path: str | Path, dtype: Any = None, **sizes: int) -> Clip:
    """Loads a CLIP ViT by name ('clip_vit_b16', 'demo'), from a folder, a file or the hub.

    A folder or hub name holds Hugging Face's layout, a .safetensors file OpenAI's state dict, and
    'debug' gives small random weights. `dtype` is that of the weights and of the computation,
    float32 unless given. `sizes` are those that the source does not say: `heads` and `text_heads`
    of OpenAI's. Raises UserError if the source cannot be had or read, or if a weight is missing,
    left over, of the wrong shape or not finite.
    """
    source = str(name_or_path)
    in_file = source.endswith(".safetensors")
    known = openai.SIZES if in_file else ()
    for size in sizes:
        if size not in known:
            takes = f"takes {' and '.join(known)} alone" if known else "states all its sizes itself"
            raise UserError(f"{source} {takes}; leave out {size}={sizes[size]}.")
    if source == "debug":
        graph, _ = tree.flatten(nnx.eval_shape(lambda: Clip(DEBUG, rngs=nnx.Rngs(0))))
        arrays = jax.jit(_random_leaves)()  # one compilation instead of one a shape
    else:
        if in_file:
            file, layout = Path(source).expanduser(), openai
            stored = read_file(file)
            config = openai.read_config(stored, str(file), **sizes)
        else:
            folder = hub.folder_of(source)
            file, layout = folder / huggingface.WEIGHTS, huggingface
            config = huggingface.read_config(folder)
            stored = read_file(file)
        abstract = nnx.eval_shape(lambda: Clip(config, rngs=nnx.Rngs(0)))
        graph, leaves = tree.flatten(abstract)
        shapes = {path: leaf.shape for path, leaf in leaves.items()}
        arrays = to_ours(stored, shapes, layout.TABLE, str(file), layout.IGNORED)
    return tree.merge(graph, {p: jnp.asarray(a, dtype or jnp.float32) for p, a in arrays.items()})


def _random_leaves() -> tree.Tree:
    _, leaves = tree.flatten(Clip(DEBUG, rngs=nnx.Rngs(0)))
    return {path: leaf[...] for path, leaf in leaves.items()}


def read_file(path: Path) -> dict[str, np.ndarray]:
    """Reads a safetensors file. Raises UserError if it is absent, cut short or something else."""
    try:
        return safetensors.numpy.load_file(path)
    except (OSError, safetensors.SafetensorError) as e:
        raise UserError(
            f"Cannot read {path} as safetensors ({e}). The file may be absent, cut short or not a "
            "weight file: get it again."
        ) from e


def save_backbone(clip: Clip, folder: str | Path, dtype: DTypeLike = np.float32) -> None:
    """Writes a CLIP in Hugging Face's layout (without tokenizer), weights stored in `dtype`."""
    _, leaves = tree.flatten(clip)
    arrays = {path: np.asarray(leaf[...]).astype(dtype) for path, leaf in leaves.items()}
    huggingface.save(Path(folder), clip.config, arrays)


def load_tokenizer(name_or_path: str | Path, context: int) -> Tokenizer:
    """The tokenizer beside a backbone's weights; texts become rows of `context` ids."""
    source = "demo" if str(name_or_path) == "debug" else str(name_or_path)
    folder = Path(source).parent if source.endswith(".safetensors") else hub.folder_of(source)
    return Tokenizer(folder, context)
