"""Addresses of files: paths of this machine, and gs://, s3:// and whatever else fsspec knows."""

import os
from pathlib import Path
from typing import Any

import fsspec

from lift_jax.errors import UserError

# The library that fsspec needs for an address, by what stands before "://".
LIBRARIES = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs", "az": "adlfs", "abfs": "adlfs"}


def is_remote(path: str | Path) -> bool:
    """Returns True for an address such as gs://bucket/folder, False for a path of this machine."""
    return "://" in str(path)


def file_system(address: str) -> tuple[Any, str]:
    """Returns the fsspec file system of an address, and the path in it without a trailing slash.

    Raises UserError if the kind of address is unknown or its library is not installed.
    """
    kind = address.partition("://")[0]
    try:
        fs, path = fsspec.url_to_fs(address)
    except ImportError as error:
        library = LIBRARIES.get(kind)
        remedy = f"pip install {library}" if library else "install the one that is named here"
        raise UserError(
            f"{address} needs a library that is not installed: {remedy} ({error})."
        ) from error
    except ValueError as error:
        raise UserError(
            f"{address}: {error}. Expected a folder, or an address such as gs://bucket/folder."
        ) from error
    return fs, path.rstrip("/")


def size(address: str) -> int | None:
    """Returns the bytes of a file at an address, None where the file system does not tell."""
    fs, path = file_system(address)
    return fs.info(path).get("size")


def exists(path: str) -> bool:
    """Returns True if there is a file or folder at a path or an address."""
    if not is_remote(path):
        return os.path.exists(path)
    fs, inner_path = file_system(path)
    return fs.exists(inner_path)
