"""Interpolation of position embeddings for images of another size than in pre-training.

A source's positions are resampled as the library of the source does it:

antialias  bicubic (a = -0.5), with antialiasing where the grid shrinks: timm, open_clip
plain      bicubic (a = -0.75), without antialiasing: transformers
offset     as plain, on a grid that is 0.1 patches larger: the own code of DINO, iBOT and DINOv2
linear     bilinear, with antialiasing where the grid shrinks: SigLIP 2
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float


def resize(
    positions: Float[np.ndarray, "t d"], grid: int, before: int, how: str
) -> Float[np.ndarray, "n d"]:
    """Resamples the square grid of positions, and keeps the first `before` rows as they are.

    Args:
        positions: the embeddings, one row for each token; the grid comes last.
        grid: the new number of patches along a side.
        before: the number of rows before the grid (1 for CLS).
        how: antialias, plain, offset or linear.
    """
    kept, square = positions[:before], positions[before:].astype(np.float32)
    old = round(len(square) ** 0.5)
    square = square.reshape(old, old, -1)
    if how in ("plain", "offset"):
        weights = _bicubic(old, grid, grid + 0.1 if how == "offset" else grid)
        square = np.einsum("yi,xj,ijd->yxd", weights, weights, square, optimize=True)
    else:
        method = {"antialias": "cubic", "linear": "linear"}[how]
        shape = (grid, grid, square.shape[2])
        with jax.default_matmul_precision("highest"):
            square = np.asarray(jax.image.resize(jnp.asarray(square), shape, method))
    return np.concatenate([kept.astype(np.float32), square.reshape(grid * grid, -1)])


def _bicubic(old: int, new: int, span: float) -> Float[np.ndarray, "n o"]:
    """Returns the weights of bicubic interpolation from `old` to `new` samples, as in torch.

    `span` is the number of new samples that the old ones are as long as. The kernel is Keys' with
    a = -0.75 over four neighbours; the border is repeated.
    """
    a = -0.75
    weights = np.zeros((new, old))
    centres = (np.arange(new) + 0.5) * old / span - 0.5
    for row, centre in enumerate(centres):
        for neighbour in int(np.floor(centre)) + np.arange(-1, 3):
            x = abs(centre - neighbour)
            if x <= 1:
                weight = (a + 2) * x**3 - (a + 3) * x**2 + 1
            else:
                weight = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
            weights[row, np.clip(neighbour, 0, old - 1)] += weight
    return weights.astype(np.float32)
