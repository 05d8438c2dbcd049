"""The memory that settings need at least, compared with the memory of the machine and its devices.

The estimates are lower bounds: a size that is refused cannot work on this machine, one that passes
may still be too large.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass

import jax
from rich.filesize import decimal

from lift_jax.errors import UserError


@dataclass(frozen=True)
class Need:
    """The memory that a setting needs.

    Attributes:
        key: the setting.
        value: its value.
        size: a lower bound in bytes, of one process or of one device.
        purpose: what the memory is for.
        on_device: True if it is memory of a device.
    """

    key: str
    value: int
    size: int
    purpose: str
    on_device: bool = False


def check(needs: Iterable[Need]) -> None:
    """Raises UserError for the first need that is larger than the memory of machine or device."""
    for need in needs:
        held = device_memory() if need.on_device else machine_memory()
        if held is not None and need.size > held:
            own = need.on_device and jax.default_backend() != "cpu"
            raise UserError(
                f"{need.key}={need.value} needs at least {decimal(need.size)} for {need.purpose}; "
                f"this {'device' if own else 'machine'} has {decimal(held)}. Give a smaller "
                f"{need.key}."
            )


def machine_memory() -> int | None:
    """Returns the size of the main memory in bytes, None if the system does not tell it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def device_memory() -> int | None:
    """Returns the memory of one device in bytes, None if it is not known.

    Devices on the CPU share the main memory.
    """
    if jax.default_backend() == "cpu":
        held = machine_memory()
        return None if held is None else held // jax.local_device_count()
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit")
