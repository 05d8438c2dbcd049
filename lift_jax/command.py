"""What the commands share: their arguments, and a line for each mistake of a user."""

import argparse
import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import jax

from lift_jax.errors import UserError, fail
from lift_jax.log import cache_folder


def parser(name: str, about: str | None) -> argparse.ArgumentParser:
    """Of the command `python -m lift_jax.NAME`, whose help begins with `about` as it is."""
    return argparse.ArgumentParser(
        prog=f"python -m lift_jax.{name}", description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Ends the program without a trace: a mistake of the user with a line and exit status 2, Ctrl-C
    with 130."""
    try:
        yield
    except UserError as error:
        raise SystemExit(fail(error)) from None
    except KeyboardInterrupt:
        sys.stdout.flush()
        os._exit(130)  # one that came while XLA compiled lets the usual end of the program crash


def use_compile_cache() -> None:
    """Keeps compiled programs under the user's cache folder: a second run starts at once."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla"))
        # also what compiles fast: the cells of a sweep have much of that in common
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def define(file: str | None) -> None:
    """Runs the config file of a run for the tuners that it defines (--config of other commands).

    Raises UserError if there is no such file, or running it fails.
    """
    if not file:
        return
    path = Path(file.partition(":")[0])
    spec = importlib.util.spec_from_file_location("config_of_the_run", path)
    try:
        if spec is None or spec.loader is None:
            raise ImportError("its name must end in .py")
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    except Exception as e:  # whatever the file does
        raise UserError(f"Cannot run the config file {path} (--config): {e!r}") from e
