"""Description of the system, for a bug report."""

import os
import platform

import jax
from rich.filesize import decimal

import lift_jax
from lift_jax.parallel.memory import machine_memory
from lift_jax.parallel.software import LIBRARIES, OPTIONAL, version_of


def describe_system() -> str:
    """Returns versions, number of CPUs, memory and devices, one line for each."""
    lines = {
        "lift_jax": lift_jax.__version__,
        "Python": platform.python_version(),
        "system": platform.platform(),
        "CPUs": str(os.cpu_count()),
        "memory": memory(),
    }
    lines |= {name: version_of(name) for name in (*LIBRARIES, *OPTIONAL)}
    lines |= {
        "backend": jax.default_backend(),
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }
    return "\n".join(f"{name}: {value}" for name, value in lines.items())


def memory() -> str:
    """Returns the size of the main memory, "not known" if the system does not say."""
    size = machine_memory()
    return "not known" if size is None else decimal(size)
