"""A strict session: eight CPU devices and no silent dtype promotion; warnings are errors."""

import os

# Read when JAX starts, so they are set before anything imports it.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """Converted weights go into a cache of this session, also those of the processes it starts."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, np.ndarray]]:
    """Returns a function from a name to the arrays of golden/NAME.npz.

    Arrays that are exact in float16 are stored so; they come back as float32.
    """

    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(GOLDEN / f"{name}.npz") as arrays:
            return {
                key: value.astype(np.float32) if value.dtype == np.float16 else value
                for key, value in arrays.items()
            }

    return load
