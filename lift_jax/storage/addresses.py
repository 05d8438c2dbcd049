"""Run folders at an address (gs://, s3://, any that fsspec knows), worked on in a local copy.

The copy is sent up while the run goes on, whole files at a time; a checkpoint counts there once its
last file has arrived. So a run that is killed on one machine continues on another.
"""

import os
from pathlib import Path
from typing import Any

import fsspec

from lift_jax.errors import UserError


def is_remote(path: str | Path) -> bool:
    return "://" in str(path)


def file_system(address: str) -> tuple[Any, str]:
    """What reads and writes at an address, and the path there. Raises UserError if none does."""
    kind = address.partition("://")[0]
    extra = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs", "az": "adlfs", "abfs": "adlfs"}
    try:
        fs, path = fsspec.url_to_fs(address)
    except ImportError as error:
        raise UserError(
            f"{address} needs a library that is not installed: pip install "
            f"{extra.get(kind, 'what is named here')} ({error})."
        ) from error
    except ValueError as error:
        raise UserError(
            f"{address}: {error}. Expected a folder, or an address such as gs://bucket/folder."
        ) from error
    return fs, path.rstrip("/")


def exists(path: str) -> bool:
    """Whether there is a file, here or at an address."""
    if not is_remote(path):
        return os.path.exists(path)
    fs, place = file_system(path)
    return fs.exists(place)
