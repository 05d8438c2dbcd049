"""StableHLO: one file that JAX runs on CPU, GPU or TPU without the code of this package."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from lift_jax.export.deployed import Deployed
from lift_jax.export.golden import Probabilities
from lift_jax.storage import atomic

MODEL, ABOUT = "model.stablehlo", "model.json"
PLATFORMS = ("cpu", "cuda", "tpu")
LIFETIME = (
    "This file lives months, not years: JAX guarantees to read it for 6 months after the release "
    "that wrote it. Keep the run folder, and export again."
)


def write(deployed: Deployed, folder: Path) -> Probabilities:
    """Writes the function and what its use needs to know; returns the function, read back."""
    (batch,) = export.symbolic_shape("batch")
    shape = jax.ShapeDtypeStruct((batch, *deployed.size, 3), jnp.uint8)
    with without_locations():
        exported = export.export(jax.jit(deployed.function), platforms=PLATFORMS)(shape)
    atomic.write_bytes(folder / MODEL, bytes(exported.serialize()))
    atomic.write_json(
        folder / ABOUT,
        {
            "lifetime": LIFETIME,
            "outputs": ["logits", "probabilities"],
            "platforms": PLATFORMS,
            "jax": jax.__version__,
            "calling_convention": exported.calling_convention_version,
            **deployed.about,
        },
    )
    return load(folder)


@contextmanager
def without_locations() -> Iterator[None]:
    """Keeps the paths of source files on this machine out of what is exported."""
    kept = jax.config.values["jax_traceback_in_locations_limit"]
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        yield
    finally:
        jax.config.update("jax_traceback_in_locations_limit", kept)


def load(folder: Path) -> Probabilities:
    """Returns the function from images to probabilities of an exported model."""
    function = export.deserialize(bytearray((folder / MODEL).read_bytes()))
    return lambda images: np.asarray(function.call(jnp.asarray(images))[1])
