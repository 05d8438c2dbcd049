"""The folder for what this program can make again."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Where this program may keep what it can make again: the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lift_jax"
