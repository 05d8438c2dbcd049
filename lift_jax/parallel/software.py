"""The software and devices of a process, in which all processes of a run must be alike."""

import functools
import hashlib
import platform
from importlib import metadata
from pathlib import Path

import jax

from lift_jax.errors import UserError

# The libraries on which the numbers of a run depend, or the messages between its processes.
LIBRARIES = (
    "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "pillow", "simplejpeg",
)  # fmt: skip
OPTIONAL = ("cykooz-resizer",)  # of data.decode=fast, whose pixels depend on whether it is there
PACKAGE = Path(__file__).parent.parent


def versions() -> dict[str, str]:
    """Returns the versions of Python and the libraries, and a digest of this package's code.

    No device is touched: processes with devices of different kinds wait two minutes for each other.
    """
    found = {"the version of Python": platform.python_version()}
    found |= {f"the version of {name}": version_of(name) for name in (*LIBRARIES, *OPTIONAL)}
    plugins = metadata.entry_points(group="jax_plugins")
    kinds = sorted(f"{plugin.name} {plugin.dist.version}" for plugin in plugins if plugin.dist)
    return found | {
        "the code of lift_jax (digest)": _code_digest(),
        "the devices that jax can use": ", ".join(["cpu", *kinds]),
        "JAX_PLATFORMS": str(jax.config.values["jax_platforms"] or "not set"),
    }


def version_of(library: str) -> str:
    """Returns the version of a library, "not installed" for none."""
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "not installed"


@functools.cache
def _code_digest() -> str:
    """Returns the start of a SHA-256 of the package's source files, which a checkout may change."""
    digest = hashlib.sha256()
    for file in sorted(PACKAGE.rglob("*.py")):
        digest.update(f"{file.relative_to(PACKAGE).as_posix()}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def devices() -> dict[str, str]:
    """Returns the kind and number of this process's devices, which are started if they are not yet.

    Raises UserError if they cannot be started.
    """
    try:
        backend = jax.default_backend()
    except RuntimeError as error:
        raise UserError(
            f"JAX cannot start the devices: {error} With several processes all need the same kind "
            "(JAX_PLATFORMS, and the jax package for it)."
        ) from error
    return {
        "the platform of the devices": backend,
        "the number of devices of a process": str(jax.local_device_count()),
        "jax_enable_x64": str(jax.config.values["jax_enable_x64"]),
    }
