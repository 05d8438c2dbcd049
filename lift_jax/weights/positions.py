"""Position embeddings for another resolution than the pre-training's, each source's library's way.

antialias  bicubic (a = -0.5), smoothed where it shrinks: timm, open_clip
plain      bicubic (a = -0.75), never smoothed: transformers
linear     bilinear, smoothed where it shrinks: SigLIP 2
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float


def resize(
    positions: Float[np.ndarray, "t d"], grid: int, before: int, how: str
) -> Float[np.ndarray, "n d"]:
    """Resamples the square grid behind the first `before` rows, which are kept."""
    kept, square = positions[:before], positions[before:].astype(np.float32)
    old = round(len(square) ** 0.5)
    square = square.reshape(old, old, -1)
    if how == "plain":
        weights = _bicubic(old, grid)
        square = np.einsum("yi,xj,ijd->yxd", weights, weights, square, optimize=True)
    else:
        method = {"antialias": "cubic", "linear": "linear"}[how]
        shape = (grid, grid, square.shape[2])
        with jax.default_matmul_precision("highest"):
            square = np.asarray(jax.image.resize(jnp.asarray(square), shape, method))
    return np.concatenate([kept.astype(np.float32), square.reshape(grid * grid, -1)])


def _bicubic(old: int, new: int) -> Float[np.ndarray, "n o"]:
    """Keys' kernel with a = -0.75 at four neighbours, the border repeated, as torch has it."""
    a = -0.75
    weights = np.zeros((new, old))
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    for row, centre in enumerate(centres):
        for neighbour in int(np.floor(centre)) + np.arange(-1, 3):
            x = abs(centre - neighbour)
            if x <= 1:
                weight = (a + 2) * x**3 - (a + 3) * x**2 + 1
            else:
                weight = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
            weights[row, np.clip(neighbour, 0, old - 1)] += weight
    return weights.astype(np.float32)
