"""How the head starts: from the names of the classes, or at random (SPEC: LIFT section 4.2)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lift_jax.errors import UserError
from lift_jax.models import tree
from lift_jax.models.clip import Clip
from lift_jax.models.heads import normalise
from lift_jax.weights import Tokenizer

CHUNK = 64  # texts encoded at once: 8,142 classes fit in any memory


def prompts(class_names: Sequence[str], prompt: str) -> list[str]:
    """The prompt with each class name in place of {}; "_" is read as a space."""
    return [prompt.replace("{}", name.replace("_", " ")) for name in class_names]


def class_texts(clip: Clip, tokenizer: Tokenizer, texts: Sequence[str]) -> Float[Array, "c e"]:
    """Projected text features of unit length, one row a text, in float32.

    Raises UserError if the tokenizer knows more tokens than the text tower.
    """
    tokens = tokenizer(texts)
    if tokens.max() >= clip.config.text.vocab:
        raise UserError(
            f"The tokenizer gives token {tokens.max()}, but the backbone's text tower has only "
            f"{clip.config.text.vocab} (config.json, text_config.vocab_size): they do not belong "
            "together. Copy tokenizer and weights from the same model."
        )
    # columns of padding alone come after every end token, where the causal tower does not look
    tokens = tokens[:, : int(np.flatnonzero(tokens.any(axis=0)).max()) + 1]
    graph, leaves = tree.flatten(clip.text)

    @jax.jit
    def encode(leaves: tree.Tree, proj: Array, rows: Array) -> Array:
        features = tree.merge(graph, leaves)(rows).astype(jnp.float32)
        return normalise(features @ proj.astype(jnp.float32))

    leaves, proj = {path: leaf[...] for path, leaf in leaves.items()}, clip.text_proj[...]
    padded = np.pad(tokens, ((0, -len(tokens) % CHUNK), (0, 0)), mode="edge")
    with jax.default_matmul_precision("highest"):
        rows = [encode(leaves, proj, padded[i : i + CHUNK]) for i in range(0, len(padded), CHUNK)]
    return jnp.concatenate(rows)[: len(tokens)]


def text_head(texts: Float[Array, "c e"], image_proj: Float[Array, "d e"]) -> Float[Array, "c d"]:
    """Semantic-aware initialisation: texts of unit length back through the image projection."""
    with jax.default_matmul_precision("highest"):
        return normalise(texts @ image_proj.astype(jnp.float32).T)


def random_head(classes: int, width: int, key: Array) -> Float[Array, "c d"]:
    """Rows uniform in (-1, 1), brought to unit length."""
    return normalise(jax.random.uniform(key, (classes, width), jnp.float32, -1, 1))
