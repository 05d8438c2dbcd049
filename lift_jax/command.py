"""What the commands that take a config share: the flag, and a line for each mistake in any flag."""

import importlib.util
import os
from pathlib import Path

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

from lift_jax.errors import UserError, fail, unknown
from lift_jax.log import cache_folder

CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "A file of configs/, with an argument after a colon if wanted.",
    lock_config=True,
)


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the flags, every mistake in them as one message."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as e:
        raise SystemExit(fail(e)) from None
    except UserError as e:  # from the config file
        raise SystemExit(fail(e)) from None
    except (AttributeError, KeyError) as e:  # how config_flags says that a key does not exist
        text = str(e).strip("'\"").replace("\\'", "'").replace("\\n", " ")
        raise SystemExit(fail(f"The config has no such key: {text}")) from None


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


def config_filename() -> str:
    """The flag as it was given: a path, and after a colon the argument if there is one."""
    return config_flags.get_config_filename(flags.FLAGS["config"])


def chosen_config(usage: str) -> ConfigDict:
    """The config of the flag. Raises UserError without one (`usage`), or if its file is missing."""
    if CONFIG.value is None:
        raise UserError(usage)
    try:
        CONFIG.value.lock()  # how config_flags says that the file is missing: at the first use
    except OSError:
        path = Path(config_filename().partition(":")[0])
        known = [str(file) for file in sorted(path.parent.glob("*.py"))]
        if known:
            raise unknown("config (--config)", str(path), known) from None
        raise UserError(
            f"There is no config file {path} (--config). Start from the repository's root, where "
            "configs/ lies."
        ) from None
    return CONFIG.value
