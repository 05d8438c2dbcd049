"""The golden image of an exported classifier, and the comparison with the run that it is from."""

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from lift_jax.data.images import decode
from lift_jax.errors import UserError
from lift_jax.export.deployed import Deployed
from lift_jax.storage import atomic

IMAGE, ANSWER = "golden.png", "golden.json"
LIMIT = 1e-5  # largest difference of a probability

Probabilities = Callable[[UInt8[np.ndarray, "b h w 3"]], Float[np.ndarray, "b c"]]


def picture(height: int, width: int, seed: int = 0) -> UInt8[np.ndarray, "{height} {width} 3"]:
    """Returns a made-up image of smooth patches and some noise."""
    rng = np.random.default_rng(seed)
    patches = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
    smooth = np.asarray(patches.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    return np.clip(smooth + rng.integers(-24, 25, smooth.shape), 0, 255).astype(np.uint8)


def write(deployed: Deployed, folder: Path, exported: Probabilities) -> float:
    """Writes the golden image and its probabilities; returns the largest difference found.

    `exported` runs the exported file. It is compared with the run's own classifier on the golden
    image, and on batches of one and of three images. Raises UserError above `LIMIT`,
    and if the file cannot be run.
    """
    res = deployed.view.res
    inside = deployed.about["resize_inside"]
    size = deployed.size if inside else (round(1.25 * res), round(1.6 * res))
    pictures = [picture(*size, seed=seed) for seed in range(4)]
    Image.fromarray(pictures[0]).save(folder / IMAGE)
    pictures[0] = np.asarray(decode.read_image(folder / IMAGE, deployed.how))
    views = np.stack([deployed.view(pixels) for pixels in pictures])
    inputs = np.stack(pictures) if inside else views
    expected = np.asarray(jax.jit(deployed.of_views)(views)[1])
    try:
        found = np.concatenate([exported(inputs[:1]), exported(inputs[1:])])
    except Exception as e:  # of libraries that run the file
        raise UserError(
            f"The exported classifier does not run ({type(e).__name__}: {e!s:.300}). Nothing was "
            "written. Please report this."
        ) from e
    difference = float(np.abs(found - expected).max())
    if not difference <= LIMIT:  # also for NaN
        raise UserError(
            f"The exported classifier differs from that of the run by {difference:.1e} in a "
            f"probability; at most {LIMIT:.0e} is allowed. Nothing was written. Please report this."
        )
    answer = dict(
        zip(("image", "limit", "probabilities"), (IMAGE, LIMIT, expected[0]), strict=True)
    )
    atomic.write_json(folder / ANSWER, answer)
    return difference
