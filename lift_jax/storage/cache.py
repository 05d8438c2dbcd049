"""The cache folder, for files that the program can make again."""

import os
from contextlib import suppress
from pathlib import Path

from lift_jax.storage import temporary


def cache_folder() -> Path:
    """Returns this program's folder in the user's cache ($XDG_CACHE_HOME, default ~/.cache)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lift_jax"


def remove_leftovers() -> None:
    """Removes what killed processes left half-written in the cache folder, where it is allowed."""
    with suppress(OSError, RuntimeError):  # RuntimeError: the user has no home
        for folder in cache_folder().iterdir():
            temporary.remove_dead(folder)
