"""The cache folder, for files that the program can make again."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Returns this program's folder in the user's cache ($XDG_CACHE_HOME, default ~/.cache)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lift_jax"
